#!/usr/bin/env bash
# The conformance suite on every driver of the matrix, through wgpu and through Vulkan, and the
# golden cases on SwiftShader (on the system's own driver `cargo test` has them); CUDA and ROCm
# under mock drivers; then the backend outside the workspace. Vulkan runs under the validation
# layers, any message of which is an error.
# tests/README.md says what the drivers are.
#
#   tests/matrix.sh [FOLDER]        drivers are unpacked there (default: target/drivers)
#   tests/matrix.sh FOLDER proof    only what CUDA and ROCm are proven by without hardware, with
#                                   the parts that `cargo test` has, and the time of each
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

# conformance NAME DEVICE ARGUMENT... -- COMMAND...: the suite on a device, in a process that
# COMMAND (env, a loader) starts; what it says goes to NAME-DEVICE.log.
conformance() {
    local name=$1 device=$2 arguments=()
    shift 2
    while [ "$1" != -- ]; do
        arguments+=("$1")
        shift
    done
    shift
    # What every process of the suite opens as /dev/fd/3 is a pipe, since a file would be cut.
    "$@" "$target/debug/hadal" conformance --device "$device" "${arguments[@]}" \
        --failures "$reports/failures" 3>&1 > "$reports/$name-$device.log" 2>&1 |
        cat > "$reports/$name-$device.messages"
}

# What the validation layers are told where no device collects their messages.
cat > "$reports/vk_layer_settings.txt" << 'END'
khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG
khronos_validation.report_flags = error,warn,info
khronos_validation.log_filename = /dev/fd/3
END
under_layers=(env VK_INSTANCE_LAYERS=VK_LAYER_KHRONOS_validation
    VK_LAYER_SETTINGS_PATH="$(realpath "$reports/vk_layer_settings.txt")")

# messages NAME: what the layers found in wgpu's calls. They first say that they listen;
# `backends/vulkan/src/validation.rs` says why one message is not about us.
messages() {
    local file=$reports/$1-wgpu.messages
    if ! grep -qa 'Validation Information' "$file"; then
        echo "$1: the validation layers said nothing at all"
        return
    fi
    grep -aE 'Validation (Error|Warning|Performance)' "$file" |
        grep -v VUID-StandaloneSpirv-None-10684
}

# both NAME DEVICE PROCESS DEVICE PROCESS: waits for two runs side by side (one keeps one
# processor busy), and says what came of them.
both() {
    local name=$1
    shift
    while [ $# -gt 0 ]; do
        wait "$2" || status=1
        echo "$name: $1, after $SECONDS seconds"
        cat "$reports/$name-$1.log"
        shift 2
    done
}

# suite NAME COMMAND...: the suite through both backends. In the guise of a GPU through Vulkan
# alone: `cargo test` has wgpu in that guise.
suite() {
    local name=$1 layers=(--validation-layers) around=("${under_layers[@]}") first
    shift
    if ! "$@" "$target/debug/hadal" conformance --device vulkan --validation-layers --list \
        > /dev/null 2>&1; then
        echo "NOT RUN: the validation layers on $name: they are not installed"
        layers=() around=(env)
    fi
    if [ -n "${as_gpu:-}" ]; then
        conformance "$name" vulkan --as-gpu "${layers[@]}" \
            --report "$reports/$name-vulkan.json" -- "$@" &
        both "$name" vulkan $!
        return
    fi
    conformance "$name" wgpu --report "$reports/$name-wgpu.json" -- "${around[@]}" "$@" &
    first=$!
    conformance "$name" vulkan "${layers[@]}" --report "$reports/$name-vulkan.json" -- "$@" &
    both "$name" wgpu $first vulkan $!
    if [ ${#layers[@]} -gt 0 ] && messages "$name"; then
        status=1
    fi
}

# verify NAME COMMAND...: a part of it again, through Vulkan, must give the same.
verify() {
    local name=$1 report=$reports/$1-again.json
    shift
    conformance again vulkan --case op.grouped --report "$report" -- "$@" || status=1
    conformance "$name-again" vulkan --verify "$report" -- "$@" &
    both "$name-again" vulkan $!
}

# golden NAME COMMAND...: numbers of the published model through both backends: the case with FP8,
# and those of single parts. Not in the guise of a GPU: its matrix kernels take minutes on
# SwiftShader, and its suites have them all.
golden() {
    local name=$1
    shift
    if [ ! -d "${HADAL_GOLDEN:-}" ]; then
        echo "NOT RUN: golden cases on $name: HADAL_GOLDEN names no folder"
        return
    fi
    echo "$name: golden cases"
    HADAL_TEST_DEVICES=wgpu,vulkan "$@" \
        cargo test --quiet --workspace --test golden --test golden_unit -- \
            --skip v3_with --skip moonlight --skip activations_quantised_to --skip gguf || status=1
}

# mocks: the suite, with the sizes of DeepSeek-V3, on CUDA and ROCm under mock drivers that run the
# kernels on the processor; then all operations on ROCm at waves of 32, the rows for matrix units of
# other architectures, and products by mocks of cuBLASLt and hipBLASLt. What the drivers complain of
# (leaks, bytes written beside a buffer) is a failure, too.
mocks() {
    local first name mock=$target/mock running=()
    mkdir -p "$mock"
    for name in libcuda.so.1 libamdhip64.so.7 libcublasLt.so.13 libhipblaslt.so.1; do
        ln -sf "$(realpath "$target/debug/libhadal_gpumock.so")" "$mock/$name"
    done
    rm -f "$reports/mock.complaints"
    on_mock() {
        env LD_LIBRARY_PATH="$mock" \
            HADAL_MOCK="arch=sm_90a+$1,log=$reports/mock.complaints" "${@:2}"
    }
    conformance mock cuda --profile v3-full --report "$reports/mock-cuda.json" -- on_mock gfx942 &
    first=$!
    conformance mock rocm --profile v3-full --report "$reports/mock-rocm.json" -- on_mock gfx942 &
    both mock cuda $first rocm $!
    conformance gfx950 rocm --case mfma8 -- on_mock gfx950 &
    running+=(gfx950 rocm $!)
    conformance gfx1100 rocm --case wmma -- on_mock gfx1100 &
    running+=(gfx1100 rocm $!)
    conformance gfx1201 rocm --case op. -- on_mock gfx1201 &
    running+=(gfx1201 rocm $!)
    conformance cublaslt cuda --case native -- on_mock gfx942,products=fast &
    running+=(cublaslt cuda $!)
    conformance hipblaslt rocm --case native -- on_mock gfx942,products=fast &
    running+=(hipblaslt rocm $!)
    set -- "${running[@]}"
    while [ $# -gt 0 ]; do
        both "$1" "$2" "$3"
        shift 3
    done
    if [ -s "$reports/mock.complaints" ]; then
        echo "the mock drivers complain:"
        cat "$reports/mock.complaints"
        status=1
    fi
}

# part WHAT COMMAND...: and how long it took. Others run beside it, so that seconds of the clock say
# little.
part() {
    local TIMEFORMAT="$1: %R seconds, of processors %U and %S in the system"
    time "${@:2}" || status=1
}

# proof: all that CUDA and ROCm are tested by where neither is. In two lanes, since many parts keep
# one processor busy.
proof() {
    local kernels tests=(cargo test --quiet --workspace)
    (
        part "kernels for every architecture, gates, images" "${tests[@]}" --test gpu --test images
        exit $status
    ) > "$reports/proof-kernels.log" 2>&1 &
    kernels=$!
    part "the suite with V3's sizes" mocks
    part "kernels on fibers, drivers, errors at every call" "${tests[@]}" --test fibers \
        --test drivers --test vendors --test order --test failing --test maps --test native --test code
    part "planted faults" "${tests[@]}" --test gpu_faults
    part "golden cases" env HADAL_TEST_DEVICES=cuda,rocm "${tests[@]}" --test golden \
        --test golden_unit --test golden_blocks
    wait "$kernels" || status=1
    cat "$reports/proof-kernels.log"
    echo "all of it: $SECONDS seconds"
}

have() {
    tests/drivers.sh "$folder" "$1" > "$folder/$1.log" 2>&1 && return
    echo "NOT RUN: the suite on $1: $(tail -n 1 "$folder/$1.log")"
    return 1
}

# As the tests build it: with the parts that only they use.
cargo build --quiet --workspace --all-targets || exit 1
if [ "${2:-}" = proof ]; then
    SECONDS=0
    proof
    exit $status
fi
echo host
"$target/debug/hadal" conformance --device host --report "$reports/host.json" || status=1
suite lavapipe env
verify lavapipe env
if have swiftshader; then
    swiftshader=(env VK_ICD_FILENAMES="$folder/swiftshader/icd.json")
    golden swiftshader "${swiftshader[@]}"
    suite swiftshader-subgroup-4 "${swiftshader[@]}"
    # In workgroups of several subgroups, of which it has the smallest.
    as_gpu=yes suite swiftshader-as-gpu "${swiftshader[@]}"
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
    # The only driver with cooperative matrices: every row on them, at edges of tiles and in
    # workgroups with subgroups left over.
    echo "lavapipe-sid: kernels on matrix units"
    CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$folder/run-with-lavapipe-sid" \
        cargo test --quiet --workspace --test kernels -- matrix:: three_digits || status=1
fi
echo "CUDA and ROCm under mock drivers"
mocks
if have amdhip; then
    echo "AMD's own library without a device"
    LD_LIBRARY_PATH="$folder/amdhip/usr/lib/x86_64-linux-gnu" "$target/debug/hadal" devices |
        grep -E '^rocm .*the driver knows no device' || status=1
fi
echo "a backend outside the workspace"
CARGO_TARGET_DIR=$target cargo run --quiet --manifest-path tests/conformance/example/Cargo.toml ||
    status=1
exit $status
