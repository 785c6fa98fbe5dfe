#!/usr/bin/env bash
# Everything of Hadal below FOLDER, as a distribution's package has it: programs, C library,
# desktop entry and icon, licences, bills of materials.
#
#   tools/package.sh FOLDER [PREFIX]        (PREFIX of pkg-config's paths: /usr)
#
# Needs readelf, cargo-c and cargo-cyclonedx: `tests/drivers.sh SOMEWHERE cargo-tools` brings the
# last two.
set -euo pipefail

[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
prefix=${2:-/usr}
cd "$(dirname "$0")/.."
for tool in cargo-cinstall cargo-cyclonedx readelf; do
    command -v "$tool" > /dev/null || { echo "package.sh: needs $tool" >&2; exit 1; }
done
into=$folder$prefix
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

# One by one: built together, each would have the features that the others ask of a crate.
for program in hadal-cli:hadal hadal-desktop:hadal-desktop; do
    cargo build --locked --profile dist -p "${program%:*}"
    install -D "$CARGO_TARGET_DIR/dist/${program#*:}" "$into/bin/${program#*:}"
done
cargo cinstall --locked --profile dist -p hadal-capi --destdir "$folder" --prefix "$prefix" --libdir lib
install -D -m 644 tools/desktop/hadal.desktop "$into/share/applications/hadal.desktop"
install -D -m 644 tools/desktop/icon.svg "$into/share/icons/hicolor/scalable/apps/hadal.svg"

# Drivers and the window system are looked for when a program runs: what is linked is everywhere.
tools/needs.sh "$into/bin/hadal" "$into/bin/hadal-desktop" "$into"/lib/libhadal.so

for package in hadal-cli hadal-desktop hadal-capi; do
    mkdir -p "$into/share/doc/$package"
    cp LICENSE-MIT LICENSE-APACHE "$into/share/doc/$package/"
    cargo run --quiet -p xtask -- licences "$package" > "$into/share/doc/$package/THIRD-PARTY-LICENSES"
    cargo run --quiet -p xtask -- sbom "$package" > "$into/share/doc/$package/sbom.cdx.json"
done
(cd "$folder" && find . -type f -exec ls -l {} + | awk '{ print $5, $9 }')
