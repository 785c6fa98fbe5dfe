#!/usr/bin/env bash
# Everything worth knowing about Hadal on a GPU, in one go: the conformance suite through every
# backend that finds it, twice, the golden cases, and what kernels make of the device at
# DeepSeek-V3's widths, with matrix units and without, and with activations as FP8.
#
#   tools/gpu.sh [--small] [FOLDER]
#   tools/gpu.sh --pack FOLDER      the programs it needs, for a machine without Rust
#
# Results go to FOLDER (default: tools/results/NAME-OF-THE-DEVICE) for keeping in the
# repository. --small: small shapes, for trying this script on a software adapter. Needs 20 GB
# of device memory without it. HADAL_GOLDEN=DIR names the golden cases. HADAL_PACK=FOLDER
# names programs that were packed elsewhere: nothing is built then.
set -uo pipefail
cd "$(dirname "$0")/.."

# The path of a test program: packed, or built now.
golden_program() {
    [ -z "${HADAL_PACK:-}" ] || { echo "$HADAL_PACK/$1"; return; }
    cargo test --release --no-run --message-format json --package hadal-tests --test "$1" |
        python3 -c 'import json, sys
paths = [json.loads(line).get("executable") for line in sys.stdin]
print([path for path in paths if path][-1])'
}

if [ "${1:-}" = --pack ]; then
    pack=${2:?a folder}
    mkdir -p "$pack"
    cargo build --release --package hadal-cli || exit 1
    strip -o "$pack/hadal" "${CARGO_TARGET_DIR:-target}/release/hadal" || exit 1
    for test in golden golden_unit; do
        program=$(golden_program $test) || exit 1
        strip -o "$pack/$test" "$program" || exit 1
    done
    exit
fi

configs=models/fixtures/configs
profile=v3-full config=$configs/v3_layer.json prompt=4096 stack=$configs/deepseek_v3.json together=32,128
grouped=$configs/v3_grouped.json deep=32000 depths=0,4096
if [ "${1:-}" = --small ]; then
    profile=core config=$configs/v3_narrow.json prompt=64 stack=$config together=2,4
    grouped=$config deep=200 depths=0,200
    shift
fi
export NODEVICE_SELECT=1
hadal=${HADAL_PACK:-${CARGO_TARGET_DIR:-target}/release}/hadal
status=0

note() { printf '\n==> %s\n' "$*"; }
failed() {
    status=1
    echo "FAILED: $*"
}
run() {
    note "$*"
    "$@" || failed "$@"
}

[ -n "${HADAL_PACK:-}" ] || cargo build --release --package hadal-cli || exit 1
name=$("$hadal" devices --json | python3 -c '
import json, re, sys
found = {b["backend"]: b.get("devices") or [] for b in json.load(sys.stdin)["backends"]}
gpus = [name for name in ("cuda", "rocm", "vulkan", "wgpu") if found.get(name)]
print(re.sub("[^A-Za-z0-9]+", "-", found[gpus[0]][0]["name"]).strip("-") if gpus else "", *gpus)')
read -r name gpus <<< "$name"
[ -n "$name" ] || { echo "no GPU; 'hadal devices' says why"; exit 1; }
folder=${1:-tools/results/$name}
mkdir -p "$folder"
"$hadal" devices | tee "$folder/devices.txt"

for device in $gpus; do
    run "$hadal" conformance --device $device --profile $profile --failures "$folder/failures" \
        --report "$folder/conformance-$device.json" --report "$folder/conformance-$device.md"
    run "$hadal" conformance --device $device --verify "$folder/conformance-$device.json"
done
if [ -n "${HADAL_GOLDEN:-}" ]; then
    for test in golden golden_unit; do
        run "$(golden_program $test)"
    done
else
    echo "NOT RUN: golden cases; HADAL_GOLDEN names no folder"
fi

# bench NAME ARGUMENT...: a table to read and the same as JSON.
bench() {
    local name=$1
    shift
    note "$name"
    "$hadal" bench --json "$@" > "$folder/$name.json" || failed bench --json "$@"
    "$hadal" bench "$@" 2>&1 | tee "$folder/$name.txt" || failed bench "$@"
}
all=${gpus// /,}
bench layer --dummy-weights $config --device "$all" --rows --depth $depths --repeat 5 \
    --prefill $prompt --chunk $prompt --decode 64
bench layer-fp8-activations --dummy-weights $config --device "$all" --rows --depth 0 --repeat 5 \
    --prefill $prompt --chunk $prompt --decode 64 --activations fp8
bench layer-without-matrix-units --dummy-weights $config --device "${all%,wgpu}" --kernels --depth 0 \
    --repeat 5 --prefill $prompt --chunk $prompt --decode 64 \
    --without cooperative-matrix,cooperative-bf16,cooperative-e4m3,cooperative-int8,mma-sync,fp8-mma,hopper,mfma,wmma,wmma-12
bench layer-together --dummy-weights $config --device "$all" --depth 128 --prefill 0 --decode 32 \
    --repeat 3 --batch $together
# What others publish figures of. Grouped products: four groups of 4,096 rows, the most that a step
# has, of 7,168 values and 4,096 outputs; attention of a token over a long cache.
bench grouped --dummy-weights $grouped --device "${gpus%% *}" --kernels --depth 0 --repeat 5 \
    --prefill $prompt --chunk $prompt --decode 0 --activations fp8
bench latent --dummy-weights $grouped --device "${gpus%% *}" --rows --depth $deep --repeat 5 \
    --prefill 0 --decode 64
bench latent-rounded --dummy-weights $grouped --device "${gpus%% *}" --rows --depth $deep --repeat 5 \
    --prefill 0 --decode 64 --activations fp8
# The dense products of layer-fp8-activations, above whose table cuBLASLt's times stand beside the
# kernels', by Triton.
if python3 -c 'import torch, triton; assert torch.cuda.is_available()' 2> /dev/null; then
    note triton
    tools/triton_fp8.py --json > "$folder/triton.json" || failed triton_fp8.py --json
    tools/triton_fp8.py | tee "$folder/triton.txt" || failed triton_fp8.py
else
    echo "NOT RUN: Triton's products; python3 has no torch and triton that know a GPU"
fi
# As many of V3's layers as fit the first GPU: three are dense, each other takes 11.6 GB, and 20 GB
# are for what is no layer and for drafts. The same on all GPUs of its backend together, where there
# are several.
read -r layers several <<< "$("$hadal" devices --json | python3 -c '
import json, sys
found = {b["backend"]: b.get("devices") or [] for b in json.load(sys.stdin)["backends"]}
gpus = found[sys.argv[1]]
memory = gpus[0].get("memory_bytes") or 0
print(max(4, min(61, 3 + int((memory - 20e9) // 11.6e9))), len(gpus))' "${gpus%% *}")"
bench stack --dummy-weights $stack --layers "$layers" --device "${gpus%% *}" --depth $depths \
    --prefill 0 --decode 64 --repeat 3
if [ "$several" -gt 1 ]; then
    run "$hadal" conformance --device "${gpus%% *}:all" --report "$folder/conformance-all.md"
    bench stack-all --dummy-weights $stack --layers "$layers" --device "${gpus%% *}:all" \
        --depth $depths --prefill 0 --decode 64 --repeat 3
else
    echo "NOT RUN: a model on several GPUs; there is one"
fi
bench submits --dummy-weights $configs/v3_narrow.json --device "$all" \
    --depth 0 --prefill 0 --decode 64
bench tiny --device "$all,host"
note "results are in $folder"
exit $status
