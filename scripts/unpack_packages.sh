#!/usr/bin/env bash
# Downloads packages of Debian or Ubuntu and unpacks them into a folder; needs no root and changes nothing of the system.
#
#     scripts/unpack_packages.sh FOLDER PACKAGE...
set -euo pipefail
target=${1:?"give a folder to unpack into"}
shift
mkdir -p "$target"
target=$(cd "$target" && pwd)
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
cd "$packages"
missing=()
for name in "$@"; do
    apt-get download -qq "$name" 2>/dev/null || missing+=("$name")
done
for package in *.deb; do
    [ -e "$package" ] || { echo "no package could be downloaded; run apt-get update first" >&2; exit 1; }
    dpkg-deb -x "$package" "$target"
done
[ ${#missing[@]} -eq 0 ] || echo "not found: ${missing[*]}"
