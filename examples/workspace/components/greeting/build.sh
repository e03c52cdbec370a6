# An object file for `greet` to link.
set -eu
rm -rf out
mkdir out
# Flags are several words.
# shellcheck disable=SC2086
cc ${CFLAGS:-} -O1 -I ../stamp/out -c greeting.c -o out/greeting.o
cp greeting.h out/
echo "greeting: compiled greeting.c"
