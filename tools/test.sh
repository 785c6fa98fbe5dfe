#!/usr/bin/env bash
# Every check of the repository, from a fresh clone: formatting, lints, house measures, all
# tests, documentation. Needs Rust and a C++ compiler; tests on a GPU need a Vulkan driver, of
# which Mesa's software one (lavapipe) is enough. clang 22 compiles the kernels of CUDA and ROCm.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n==> %s\n' "$*"; }

has_vulkan() {
    [ -n "${VK_ICD_FILENAMES:-}${VK_DRIVER_FILES:-}" ] && return 0
    local folder
    for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d \
        "${XDG_DATA_HOME:-$HOME/.local/share}/vulkan/icd.d"; do
        compgen -G "$folder/*.json" > /dev/null && return 0
    done
    [ "$(uname -s)" != Linux ]
}

has_layers() {
    local folder
    for folder in /usr/share /etc /usr/local/share "${XDG_DATA_HOME:-$HOME/.local/share}"; do
        compgen -G "$folder/vulkan/explicit_layer.d/*validation*.json" > /dev/null && return 0
    done
    return 1
}

# What the tests use and the machine lacks; without it they say what did not run.
packages=()
has_vulkan || packages+=(mesa-vulkan-drivers libvulkan1)
has_layers || packages+=(vulkan-validationlayers)
for tool in curl xz:xz-utils gpgv c++:g++ clang-22 ld.lld-22:lld-22 llvm-readelf-22:llvm-22 \
    pkg-config desktop-file-validate:desktop-file-utils valgrind Xvfb:xvfb readelf:binutils; do
    command -v "${tool%:*}" > /dev/null || packages+=("${tool#*:}")
done
# What a window loads by name: no program tells whether it is there.
for library in xkbcommon-x11.so.0:libxkbcommon-x11-0 X11-xcb.so.1:libx11-xcb1 \
    Xcursor.so.1:libxcursor1 Xi.so.6:libxi6; do
    [ "$(uname -s)" != Linux ] || PATH=$PATH:/sbin ldconfig -p | grep -F "lib${library%:*}" > /dev/null ||
        packages+=("${library#*:}")
done
if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        step "installing ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get update -q && apt-get install -q -y --no-install-recommends "${packages[@]}"; } ||
            echo "could not install ${packages[*]}"
    else
        echo "missing: ${packages[*]} (names of Debian's packages; Arch has vulkan-swrast and vulkan-validation-layers)"
    fi
fi
# Without a desktop session Mesa's device-selection layer complains at every test.
export NODEVICE_SELECT=1

# More drivers, a compiler for SPIR-V, tools for packages (tests/README.md). What cannot be had is
# told below.
step "drivers"
drivers=$PWD/target/drivers
tests/drivers.sh "$drivers" || true
tests/drivers.sh "$drivers" cargo-tools || true
[ ! -d "$drivers/cargo-tools" ] || PATH=$drivers/cargo-tools/bin:$PATH
sid=$drivers/lavapipe-sid/usr/bin
if [ -x "$sid/glslang" ]; then
    export GLSLANG="${GLSLANG:-$drivers/run-with-lavapipe-sid $sid/glslang}"
    export SPIRV_VAL="${SPIRV_VAL:-$drivers/run-with-lavapipe-sid $sid/spirv-val}"
fi

step "formatting"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --quiet -- -D warnings

step "house measures"
cargo run --quiet -p xtask -- tidy

# Three lanes, of which many keep less than one processor busy: the matrix of drivers, and two for the
# programs of the tests.
step "tests, and the suite on every driver"
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
status=0
cargo build --workspace --all-targets --quiet
tests/matrix.sh "$drivers" > "$logs/matrix" 2>&1 &
matrix=$!
mkdir "$logs/begun"
# lane: those of the tests that no other lane has begun, one after the other.
lane() {
    local host
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    env HADAL_LANES="$logs/begun" "CARGO_TARGET_${host}_RUNNER=$PWD/tools/lane.sh" \
        cargo test --workspace --lib --bins --tests --no-fail-fast -- --show-output 2>&1
}
lane > "$logs/second" &
second=$!
lane | tee "$logs/first" || status=$?
wait "$second" || status=$?
cat "$logs/second"
cargo test --workspace --doc 2>&1 | tee "$logs/documentation" || status=$?
echo "the tests took $((SECONDS / 60)) minutes with what was before them"
wait "$matrix" || status=$?
step "every driver"
cat "$logs/matrix"
log=$logs/all
cat "$logs"/{first,second,documentation,matrix} > "$log"
echo "all drivers were through after $((SECONDS / 60)) minutes"

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet

step "summary"
# `test result:` lines tell what ran; tests that lack something say so by name.
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "%d tests passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
# Why, beside the names: who reads a long log reads its end.
awk '/^failures:$/ { listed = 1 } /^test result:/ { listed = 0 } listed && lines++ < 100' "$log"
grep -a '^test .* FAILED$' "$log" | sort -u || true
missing=$(grep -aiE 'not run|did not (run|compare)' "$log" | sed 's/^[[:space:]]*//' | sort -u || true)
if [ -z "$missing" ]; then
    echo "0 checks did not run for want of something"
else
    printf '%s checks did not run for want of something:\n%s\n' \
        "$(printf '%s\n' "$missing" | wc -l)" "$missing"
fi
exit "$status"
