//! What people see: one line per artifact, log groups, errors.
