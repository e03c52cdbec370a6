#include "greeting.h"
#include "stamp.h"

#include <stdio.h>

void greeting(const char *name) {
  printf("Hello, %s. This is %s.\n", name, PRODUCT);
}
