# An object file for `greet` to link.
set -eu
rm -rf out
mkdir out
cc ${CFLAGS:-} -O1 -I ../stamp/out -c greeting.c -o out/greeting.o
cp greeting.h out/
echo "greeting: compiled greeting.c"
