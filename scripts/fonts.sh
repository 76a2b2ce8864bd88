#!/usr/bin/env bash
# Fonts for `qvl data synth`: Debian's or Ubuntu's font packages, unpacked into a folder; about 100 MB.
#
#     scripts/fonts.sh fonts && .venv/bin/qvl data synth --fonts fonts --count 1000 --out runs/synth
set -euo pipefail
target=${1:?"give a folder to unpack the fonts into"}
latin=(breip quicksand inconsolata dustin go crosextra-caladea crosextra-carlito sil-gentium comfortaa b612 cabin
    roboto-slab play league-spartan noto-mono cantarell open-sans linuxlibertine dejavu-core dejavu-extra ebgaramond
    jetbrains-mono liberation2 freefont-ttf texgyre lato vollkorn hack firacode roboto-unhinted)
chinese=(arphic-gbsn00lp arphic-gkai00mp arphic-ukai arphic-uming wqy-zenhei wqy-microhei smiley-sans babelstone-han
    lxgw-wenkai cwtex-ming cwtex-kai cwtex-heib cwtex-yen cwtex-fs)
names=("${latin[@]}" "${chinese[@]}")
"$(dirname "$0")/unpack_packages.sh" "$target" "${names[@]/#/fonts-}"
echo "$target: $(find "$target" -name '*.[to]t[fc]' | wc -l) font files"
