#!/usr/bin/env bash
# Real documents for `qvl data pdf` and `qvl data html`: downloads manuals of Debian in English and Chinese and unpacks
# them into a folder. Needs no root and changes nothing of the system; 63 MB to download, 101 MB unpacked.
#
#     scripts/documents.sh documents && .venv/bin/qvl data pdf documents --out runs/pdf --vocabulary published
set -euo pipefail
target=${1:?"give a folder to unpack the documents into"}
documents=(debian-reference-en debian-reference-zh-cn maint-guide-zh-cn debian-faq debian-faq-zh-cn
    developers-reference debian-policy debmake-doc gimp-help-zh-cn)
mkdir -p "$target"
target=$(cd "$target" && pwd)
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
cd "$packages"
missing=()
for name in "${documents[@]}"; do
    apt-get download -qq "$name" 2>/dev/null || missing+=("$name")
done
for package in *.deb; do
    [ -e "$package" ] || { echo "no package could be downloaded; run apt-get update first" >&2; exit 1; }
    dpkg-deb -x "$package" "$target"
done
find "$target" -type f \( -name '*.pdf.gz' -o -name '*.html.gz' \) -exec gunzip --force {} +
echo "$target: $(find "$target" -type f -name '*.pdf' | wc -l) PDF files," \
    "$(find "$target" -type f -name '*.html' | wc -l) HTML files"
[ ${#missing[@]} -eq 0 ] || echo "not found: ${missing[*]}"
