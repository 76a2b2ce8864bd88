#!/usr/bin/env bash
# Real documents for `qvl data pdf` and `qvl data html`: manuals of Debian in English and Chinese, unpacked into a folder;
# 63 MB to download, 101 MB unpacked.
#
#     scripts/documents.sh documents && .venv/bin/qvl data pdf documents --out runs/pdf --vocabulary published
set -euo pipefail
target=${1:?"give a folder to unpack the documents into"}
"$(dirname "$0")/unpack_packages.sh" "$target" debian-reference-en debian-reference-zh-cn maint-guide-zh-cn debian-faq \
    debian-faq-zh-cn developers-reference debian-policy debmake-doc gimp-help-zh-cn
find "$target" -type f \( -name '*.pdf.gz' -o -name '*.html.gz' \) -exec gunzip --force {} +
echo "$target: $(find "$target" -type f -name '*.pdf' | wc -l) PDF files," \
    "$(find "$target" -type f -name '*.html' | wc -l) HTML files"
