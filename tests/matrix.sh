#!/usr/bin/env bash
# The conformance suite on every driver of the matrix, through wgpu and through Vulkan, and the
# golden cases on the two that differ most; then the backend outside the workspace. Vulkan runs
# under the validation layers, any message of which is an error. tests/README.md says what the
# drivers are.
#
#   tests/matrix.sh [FOLDER]        drivers are unpacked there (default: target/drivers)
#
# Writes a report for each to target/conformance. What cannot be had is named: `NOT RUN`.
set -uo pipefail
cd "$(dirname "$0")/.."

folder=${1:-target/drivers}
target=${CARGO_TARGET_DIR:-target}
reports=$target/conformance
mkdir -p "$folder" "$reports"
folder=$(cd "$folder" && pwd)
export NODEVICE_SELECT=1
status=0

# suite NAME COMMAND...: the suite through both backends, started by COMMAND (env, a loader).
suite() {
    local name=$1 device
    shift
    for device in wgpu vulkan; do
        local layers=()
        if [ $device = vulkan ]; then
            if has_layers "$@"; then
                layers=(--validation-layers)
            else
                echo "NOT RUN: the validation layers on $name: they are not installed"
            fi
        fi
        echo "$name: $device ${layers[*]}"
        "$@" "$target/debug/hadal" conformance --device "$device" "${layers[@]}" \
            --failures "$reports/failures" --report "$reports/$name-$device.json" \
            --report "$reports/$name-$device.md" || status=1
    done
}

has_layers() {
    "$@" "$target/debug/hadal" conformance --device vulkan --validation-layers --list \
        > /dev/null 2>&1
}

# The same again must give the same.
verify() {
    local name=$1 device
    shift
    for device in wgpu vulkan; do
        echo "$name: $device once more"
        "$@" "$target/debug/hadal" conformance --device "$device" \
            --verify "$reports/$name-$device.json" || status=1
    done
}

# golden NAME COMMAND...: the published model's numbers.
golden() {
    local name=$1
    shift
    echo "$name: golden cases"
    "$@" cargo test --quiet --workspace --test golden --test golden_unit || status=1
}

have() {
    tests/drivers.sh "$folder" "$1" > "$folder/$1.log" 2>&1 && return
    echo "NOT RUN: the suite on $1: $(tail -n 1 "$folder/$1.log")"
    return 1
}

# The golden tests also build the program.
golden lavapipe env
echo host
"$target/debug/hadal" conformance --device host --report "$reports/host.json" || status=1
suite lavapipe env
verify lavapipe env
if have swiftshader; then
    swiftshader=(env VK_ICD_FILENAMES="$folder/swiftshader/icd.json")
    golden swiftshader "${swiftshader[@]}"
    suite swiftshader-subgroup-4 "${swiftshader[@]}"
fi
if have lavapipe-25; then
    for width in 128 512; do
        suite "lavapipe-25-subgroup-$((width / 32))" env LP_NATIVE_VECTOR_WIDTH=$width \
            VK_ICD_FILENAMES="$folder/lavapipe-25/icd.json" \
            LD_LIBRARY_PATH="$folder/lavapipe-25/usr/lib/x86_64-linux-gnu"
    done
fi
if have lavapipe-sid; then
    suite lavapipe-sid "$folder/run-with-lavapipe-sid"
fi
echo "a backend outside the workspace"
CARGO_TARGET_DIR=$target cargo run --quiet --manifest-path tests/conformance/example/Cargo.toml ||
    status=1
exit $status
