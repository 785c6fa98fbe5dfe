#!/usr/bin/env python3
"""Dense products of E4M3 codes by a kernel in Triton, to stand beside Hadal's and cuBLASLt's.

    tools/triton_fp8.py [--json]     times DeepSeek-V3's products of 4,096 rows on the first GPU
    tools/triton_fp8.py --check      only whether the kernel is right, also where there is no GPU:
                                     TRITON_INTERPRET=1 tools/triton_fp8.py --check

The same product as there (DeepSeek-V3 report, section 3.3): a row of activations has a scale for each
128 codes, a weight one for each 128 by 128, sums are f32 and scaled each 128 codes. Needs the Python
packages torch and triton. Figures are medians of runs that find the cache cold.
"""
import argparse
import json
import sys

import torch
import triton
import triton.language as tl

BLOCK = 128
ROWS = 4096
# Outputs and depth of the products with a weight, largest first.
SHAPES = {
    "feed-forward, in": (36864, 7168),
    "output of attention": (7168, 16384),
    "queries, up": (24576, 1536),
    "feed-forward, back": (7168, 18432),
    "shared expert, in": (4096, 7168),
    "shared expert, back": (7168, 2048),
}


@triton.jit
def product(x, w, y, x_scales, w_scales, rows, outputs, depth,
            ROW_TILE: tl.constexpr, OUTPUT_TILE: tl.constexpr, GROUP: tl.constexpr):
    # Blocks that run together share rows and weights.
    row_tiles, output_tiles = tl.cdiv(rows, ROW_TILE), tl.cdiv(outputs, OUTPUT_TILE)
    block = tl.program_id(0)
    group = block // (GROUP * output_tiles)
    height = tl.minimum(row_tiles - group * GROUP, GROUP)
    within = block % (GROUP * output_tiles)
    r = (group * GROUP + within % height) * ROW_TILE + tl.arange(0, ROW_TILE)
    o = within // height * OUTPUT_TILE + tl.arange(0, OUTPUT_TILE)
    k = tl.arange(0, 128)
    blocks = tl.cdiv(depth, 128)
    sums = tl.zeros((ROW_TILE, OUTPUT_TILE), dtype=tl.float32)
    for at in range(0, blocks):
        codes = tl.load(x + r[:, None] * depth + (at * 128 + k)[None, :], mask=r[:, None] < rows, other=0.0)
        weights = tl.load(w + o[None, :] * depth + (at * 128 + k)[:, None], mask=o[None, :] < outputs, other=0.0)
        row_scale = tl.load(x_scales + r * blocks + at, mask=r < rows, other=0.0)
        scale = tl.load(w_scales + o // 128 * blocks + at, mask=o < outputs, other=0.0)
        sums += tl.dot(codes, weights) * row_scale[:, None] * scale[None, :]
    tl.store(y + r[:, None] * outputs + o[None, :], sums, mask=(r[:, None] < rows) & (o[None, :] < outputs))


# Tiles of rows and outputs, warps, stages.
TILES = [(128, 128, 8, 3), (128, 128, 4, 4), (64, 128, 4, 4), (128, 64, 4, 4), (128, 256, 8, 3)]


def multiply(case, tiles):
    x, w, y, x_scales, w_scales = case
    (rows, depth), outputs = x.shape, w.shape[0]
    row_tile, output_tile, warps, stages = tiles
    grid = (triton.cdiv(rows, row_tile) * triton.cdiv(outputs, output_tile),)
    product[grid](x, w, y, x_scales, w_scales, rows, outputs, depth,
                  ROW_TILE=row_tile, OUTPUT_TILE=output_tile, GROUP=8, num_warps=warps, num_stages=stages)


def made(rows, outputs, depth, device):
    torch.manual_seed(1)
    blocks = depth // BLOCK
    codes = lambda count: torch.randn(count, depth, device=device).to(torch.float8_e4m3fn)
    scales = lambda count: torch.rand(count, blocks, device=device) + 0.5
    y = torch.full((rows, outputs), float("nan"), device=device)
    return codes(rows), codes(outputs), y, scales(rows), scales(triton.cdiv(outputs, BLOCK))


def check(device):
    rows, outputs, depth = 70, 160, 384
    case = made(rows, outputs, depth, device)
    x, w, y, x_scales, w_scales = case
    wide = lambda scales: scales.double().repeat_interleave(BLOCK, 1)
    left = x.double() * wide(x_scales)
    right = w.double() * wide(w_scales).repeat_interleave(BLOCK, 0)[:outputs]
    expected = left @ right.T
    for tiles in TILES:
        y.fill_(float("nan"))
        multiply(case, tiles)
        off = ((y.double() - expected).abs().max() / expected.abs().max()).item()
        # Units for E4M3 keep some 14 bits of a sum of 128.
        if not off < 1e-3:
            sys.exit(f"tiles {tiles}: off by {off:.2e} of the largest")
    return f"right at all tiles, to {off:.1e} of the largest"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only whether it is right")
    parser.add_argument("--json", action="store_true", help="a report for programs")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checked = check(device)
    if options.check:
        print(checked)
        return
    if device == "cpu":
        sys.exit("no GPU that torch knows; --check needs none")
    found = []
    for name, (outputs, depth) in SHAPES.items():
        case = made(ROWS, outputs, depth, device)
        times = {tiles: triton.testing.do_bench(lambda: multiply(case, tiles), return_mode="median") for tiles in TILES}
        tiles, time = min(times.items(), key=lambda it: it[1])
        rate = 2 * ROWS * outputs * depth / time / 1e9
        found.append({"product": name, "rows": ROWS, "outputs": outputs, "depth": depth, "tiles": tiles,
                      "milliseconds": time, "tflops": rate})
        if not options.json:
            print(f"{name:<22} {outputs:>6} x {depth:<6} {time:8.3f} ms {rate:8.0f} TFLOP/s")
    if options.json:
        about = {"device": torch.cuda.get_device_name(), "triton": triton.__version__, "torch": torch.__version__}
        print(json.dumps({**about, "products": found}, indent=2))


if __name__ == "__main__":
    main()
