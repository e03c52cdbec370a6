# What is shipped: the program, the translations, and a list of both.
set -eu
rm -rf out
mkdir -p out/bin out/share
cp ../greet/out/bin/greet out/bin/
cp ../catalogue/out/*.tsv out/share/
(cd out && find bin share -type f | LC_ALL=C sort >CONTENTS)
out/bin/greet release
