#!/usr/bin/env bash
# Installs the system packages that the recipe likes to have: fonts with Latin and Chinese glyphs, and a
# browser that renders web pages. Without the right to install, it names what is missing and goes on.
set -u
packages=(fonts-dejavu-core fonts-liberation2 fonts-wqy-zenhei fonts-wqy-microhei fontconfig chromium)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
install=(apt-get install -y -qq --no-install-recommends)
if [ "$(id -u)" -eq 0 ]; then
    prefix=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    prefix=(sudo)
else
    echo "Not installed, and this user may not install packages: ${missing[*]}"
    echo "The parts that need them are left out. To have them: sudo apt-get install ${missing[*]}"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
"${prefix[@]}" apt-get update -qq && "${prefix[@]}" "${install[@]}" "${missing[@]}" >/dev/null && exit 0
echo "Could not install: ${missing[*]}. The parts that need them are left out."
