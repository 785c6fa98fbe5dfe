"""Write a trained model as a published-form checkpoint: one model.safetensors, official names, FP8 with block scales.

The MTP module's copies of the embedding and the head are left out: they are the main tensors.
"""
import argparse
import os
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import layout
from config import CONFIG
from model import FP8_BLOCK, FP8_MAX, DeepSeekV3


def quantise(w):
    """[rows, cols] -> (e4m3 codes, f32 scale_inv [ceil(rows/128), ceil(cols/128)])."""
    rows, cols = w.shape
    p = F.pad(w.float(), (0, -cols % FP8_BLOCK, 0, -rows % FP8_BLOCK))
    p = p.unflatten(1, (-1, FP8_BLOCK)).unflatten(0, (-1, FP8_BLOCK))
    scale = p.abs().amax(dim=(1, 3), keepdim=True).clamp_min(1e-12) / FP8_MAX
    codes = (p / scale).to(torch.float8_e4m3fn)
    codes = codes.flatten(2, 3).flatten(0, 1)[:rows, :cols].contiguous()
    return codes, scale[:, 0, :, 0].contiguous()


def official(model):
    """(official name, tensor, kind) in file order; kind is fp8, bf16 or f32."""
    layers = len(model.layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            yield name, value, "bf16"
            continue
        name = "model." + name.replace("mtp.", f"layers.{layers}.")
        if name.endswith((".gate_up", ".down")):
            prefix = name.rsplit(".", 1)[0] + ".experts"
            for e, expert in enumerate(value):
                if name.endswith(".down"):
                    yield f"{prefix}.{e}.down_proj.weight", expert, "fp8"
                else:
                    yield f"{prefix}.{e}.gate_proj.weight", expert[0], "fp8"
                    yield f"{prefix}.{e}.up_proj.weight", expert[1], "fp8"
        elif name.endswith("e_score_correction_bias"):
            yield name, value, "f32"
        elif value.ndim == 1 or name.endswith(("embed_tokens.weight", "mlp.gate.weight", "eh_proj.weight")):
            yield name, value, "bf16"
        else:
            yield name, value, "fp8"


def tensors(model, fp8=True):
    """{official name: tensor as stored}; without fp8 the matrices are BF16."""
    out = {}
    for name, value, kind in official(model):
        if kind == "fp8" and fp8:
            out[name], out[name + "_scale_inv"] = quantise(value)
        else:
            out[name] = value.to(torch.float32 if kind == "f32" else torch.bfloat16).contiguous().clone()
    return out


def size_of(model):
    """Bytes of tensor data in the file."""
    return sum(t.numel() * t.element_size() for t in tensors(model).values())


def write(model, path, fp8=True):
    """Write the file atomically; gives its size."""
    partial = str(path) + ".new"
    save_file(tensors(model, fp8), partial, metadata={"format": "pt"})
    layout.rewrite(partial)
    os.chmod(partial, 0o644)  # safetensors makes it private
    os.replace(partial, path)
    return Path(path).stat().st_size


def main():
    ap = argparse.ArgumentParser(description="export a training checkpoint")
    ap.add_argument("checkpoint")
    ap.add_argument("out", help="model.safetensors to write")
    ap.add_argument("--bf16", action="store_true", help="matrices in BF16, to measure what FP8 costs")
    args = ap.parse_args()
    model = DeepSeekV3(CONFIG)
    model.load_state_dict(torch.load(args.checkpoint, weights_only=False)["model"])
    print(f"{write(model, args.out, not args.bf16):,} bytes")


if __name__ == "__main__":
    main()
