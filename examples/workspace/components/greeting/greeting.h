/* Writes a greeting for a name to standard output. */
void greeting(const char *name);
