#!/usr/bin/env bash
# Fonts for `qvl data synth`: downloads Debian's or Ubuntu's font packages and unpacks them into a folder. Needs no
# root and changes nothing of the system; about 100 MB.
#
#     scripts/fonts.sh fonts && .venv/bin/qvl data synth --fonts fonts --count 1000 --out runs/synth
set -euo pipefail
target=${1:?"give a folder to unpack the fonts into"}
latin=(breip quicksand inconsolata dustin go crosextra-caladea crosextra-carlito sil-gentium comfortaa b612 cabin
    roboto-slab play league-spartan noto-mono cantarell open-sans linuxlibertine dejavu-core dejavu-extra ebgaramond
    jetbrains-mono liberation2 freefont-ttf texgyre lato vollkorn hack firacode roboto-unhinted)
chinese=(arphic-gbsn00lp arphic-gkai00mp arphic-ukai arphic-uming wqy-zenhei wqy-microhei smiley-sans babelstone-han
    lxgw-wenkai cwtex-ming cwtex-kai cwtex-heib cwtex-yen cwtex-fs)
mkdir -p "$target"
target=$(cd "$target" && pwd)
packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
cd "$packages"
missing=()
for name in "${latin[@]}" "${chinese[@]}"; do
    apt-get download -qq "fonts-$name" 2>/dev/null || missing+=("fonts-$name")
done
for package in *.deb; do
    [ -e "$package" ] || { echo "no package could be downloaded; run apt-get update first" >&2; exit 1; }
    dpkg-deb -x "$package" "$target"
done
echo "$target: $(find "$target" -name '*.[to]t[fc]' | wc -l) font files"
[ ${#missing[@]} -eq 0 ] || echo "not found: ${missing[*]}"
