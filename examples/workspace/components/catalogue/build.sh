# The translations, sorted, one file for each language.
set -eu
rm -rf out
mkdir out
count=0
for file in *.txt; do
  LC_ALL=C sort "$file" >"out/${file%.txt}.tsv"
  count=$((count + 1))
done
echo "catalogue: sorted $count languages"
