# The translations, sorted, one file for each language.
set -eu
rm -rf out
mkdir out
for file in *.txt; do
  LC_ALL=C sort "$file" >"out/${file%.txt}.tsv"
done
echo "catalogue: sorted $(ls out | wc -l) languages"
