# The program.
set -eu
rm -rf out
mkdir -p out/bin
# Flags are several words.
# shellcheck disable=SC2086
cc ${CFLAGS:-} -O1 -I ../greeting/out main.c ../greeting/out/greeting.o -o out/bin/greet
echo "greet: linked out/bin/greet"
