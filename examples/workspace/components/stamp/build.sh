# A header with the product's name and version.
set -eu
rm -rf out
mkdir out
printf '#define PRODUCT "%s"\n' "$(cat product.txt)" >out/stamp.h
echo "stamp: wrote out/stamp.h"
