#!/usr/bin/env python3
"""Hadal and other engines side by side, on the same weights, in one run.

  tools/peers.py --checkpoint BF16_FOLDER --peer NAME=PATH/llama-bench [--peer ...]

A peer is any program with the options of llama.cpp's `llama-bench` (ik_llama.cpp has it too); for
--batch, `llama-batched-bench` has to lie beside it.
Of the checkpoint (BF16, with a tokenizer, or peers refuse it) `hadal quantize` makes a GGUF file
for each format once, without the next-token module, which
the peers refuse; every engine then reads the same file. --fp8 FOLDER adds the FP8 form of the
same checkpoint, which Hadal reads as stored and which is compared with the peers' Q8_0.

Engines take turns, round after round, so that what else happens on the machine hits all of them;
medians over all samples are printed, with Hadal's ratio to the fastest peer. Needs a release
build of Hadal and Python 3.9; nothing else should run meanwhile: the load is printed.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HADAL = "hadal"
# Tokens in the cache of each sequence that is decoded together with others.
BATCH_DEPTH = 128


def parse():
    """The arguments."""
    root = Path(__file__).resolve().parent.parent
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--checkpoint", required=True, help="BF16 checkpoint folder")
    ap.add_argument("--fp8", help="the same weights as an FP8 checkpoint folder")
    ap.add_argument("--peer", action="append", default=[], metavar="NAME=PATH", help="a llama-bench")
    ap.add_argument("--hadal", default=str(root / "target/release/hadal"))
    ap.add_argument("--formats", default="bf16,q8_0,q4_k_m", help="recipes of `hadal quantize`")
    ap.add_argument("--activations", default="", help="Hadal's --activations (q8: as the peers)")
    ap.add_argument("--files", default=str(root / "target/peers"), help="where GGUF files are made")
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--prefill", type=int, default=512)
    ap.add_argument("--decode", type=int, default=128)
    ap.add_argument("--depth", type=int, default=0, help="tokens in the cache before decoding; a prompt "
                    "begins at 0")
    ap.add_argument("--batch", default="", metavar="N,N,...", help="sequences decoded together, too, "
                    "each 128 tokens deep")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--samples", type=int, default=2, help="samples a round")
    ap.add_argument("--json", metavar="FILE", help="write all samples there")
    return ap.parse_args()


def run(command, with_words=False):
    """A program's output (with_words: and what it says beside it) and its peak memory in bytes; ends
    with its last words if it fails."""
    with tempfile.TemporaryFile() as words:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=words, text=True)
        out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            words.seek(0)
            tail = words.read().decode(errors="replace").strip().splitlines()[-3:]
            sys.exit(f"{' '.join(command)} failed ({child.returncode}):\n" + "\n".join(tail))
        if with_words:
            words.seek(0)
            out += words.read().decode(errors="replace")
    return out, usage.ru_maxrss * 1024


def gguf(args, form):
    """The GGUF file of a format; made if it is not there."""
    path = Path(args.files) / f"{Path(args.checkpoint).resolve().name}-{form}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"making {path}", file=sys.stderr)
        run([args.hadal, "quantize", "--model", args.checkpoint, "--recipe", form, "--no-verify",
             "--without-drafts", str(path)])
    return str(path)


def ours(args, model, samples):
    """Samples of Hadal: prefill and decode, in tokens a second."""
    command = [args.hadal, "bench", "--model", model, "--device", "host", "--json",
               "--threads", str(args.threads), "--repeat", str(args.samples)]
    if args.activations:
        command += ["--activations", args.activations]

    def bench(depth, prefill, *more):
        out, _ = run([*command, "--depth", str(depth), "--prefill", str(prefill), *more])
        return json.loads(out)

    decode = ["--decode", str(args.decode)]
    report = bench(0, args.prefill, *(["--decode", "0"] if args.depth else decode))
    samples["prefill"] += report["rows"][0]["prefill_samples"]
    # Not of the process as a whole: its last half a gigabyte measures the memory.
    peak = report["peak_process_bytes"]
    if args.depth:
        report = bench(args.depth, 0, *decode)
        peak = max(peak, report["peak_process_bytes"])
    samples["peak"].append(peak)
    row = report["rows"][0]
    samples["decode"] += row["decode_samples"]
    samples["memory"].append(report["memory_bandwidth"][0]["bytes_per_second"])
    samples["bytes"] = row["bytes_per_token"]
    if args.batch:
        report = bench(BATCH_DEPTH, 0, *decode, "--batch", args.batch)
        for row in report["rows"][0]["together"]:
            samples.setdefault(f"batch {row['sequences']}", []).extend(row["samples"])


def theirs(args, program, model, samples):
    """Samples of a peer."""
    base = [program, "-m", model, "-t", str(args.threads), "-r", str(args.samples), "-o", "json", "-fa", "1"]
    out, peak = run(base + ["-p", str(args.prefill), "-n", "0" if args.depth else str(args.decode)])
    tests = json.loads(out)
    if args.depth:
        # Generation after a prompt: of the two ways to say so, each fork knows one.
        at_depth = (["-p", "0", "-n", str(args.decode), "-d", str(args.depth)]
                    if "-d," in help_of(program) else
                    ["-p", "0", "-n", "0", "-gp", f"{args.depth},{args.decode}"])
        out, deep = run(base + at_depth)
        tests += json.loads(out)
        peak = max(peak, deep)
    for test in tests:
        kind = "decode" if test["n_gen"] else "prefill"
        samples[kind] += test["samples_ts"]
    samples["peak"].append(peak)
    for _ in range(args.samples if args.batch else 0):
        together(args, program, model, samples)


def together(args, program, model, samples):
    """A sample of a peer's sequences decoded together: rows of a table between bars, of which column 2
    is their number and column 7 the tokens a second."""
    most = max(int(count) for count in args.batch.split(","))
    context = most * (BATCH_DEPTH + args.decode)
    # The first sequence touches what is read later: its time is not one of decoding.
    out, _ = run([str(Path(program).parent / "llama-batched-bench"), "-m", model, "-t", str(args.threads),
                  "-c", str(context), "-b", "2048", "-ub", "512", "-npp", str(BATCH_DEPTH),
                  "-ntg", str(args.decode), "-npl", "1," + args.batch], with_words=True)
    rows = [[word.strip() for word in line.strip().strip("|").split("|")]
            for line in out.splitlines() if line.startswith("|")]
    for row in [row for row in rows if row[0].isdigit()][1:]:
        samples.setdefault(f"batch {row[2]}", []).append(float(row[7]))


def help_of(program):
    """What a program says of its options."""
    return subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout


def measure(args, peers, name, model, peer_model):
    """All samples of one kind of weights, by engine."""
    found = {engine: {"prefill": [], "decode": [], "peak": [], "memory": []} for engine in [HADAL, *peers]}
    for number in range(args.rounds):
        print(f"{name}: round {number + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        ours(args, model, found[HADAL])
        for peer, program in peers.items():
            theirs(args, program, peer_model, found[peer])
    return found


def table(args, name, found):
    """Lines of a report: medians, and Hadal's share of the fastest peer."""
    lines = []
    for engine, samples in found.items():
        prefill, decode = statistics.median(samples["prefill"]), statistics.median(samples["decode"])
        line = (f"{name:>10} {engine:>12} {prefill:>10.1f} {decode:>10.1f} "
                f"{statistics.median(samples['peak']) / 1e9:>8.2f} GB")
        if engine == HADAL:
            read = decode * samples["bytes"]
            line += f"  {read / 1e9:.1f} of {statistics.median(samples['memory']) / 1e9:.1f} GB/s read"
        lines.append(line)
    others = [samples for engine, samples in found.items() if engine != HADAL]
    batches = [kind for kind in found[HADAL] if kind.startswith("batch ")
               and all(kind in samples for samples in found.values())]
    for kind in batches:
        medians = [f"{engine} {statistics.median(samples[kind]):.1f}" for engine, samples in found.items()]
        lines.append(f"{name:>10} {kind}: {', '.join(medians)}")
    for kind in ("prefill", "decode", *batches) if others else ():
        best = max(statistics.median(samples[kind]) for samples in others)
        ratio = statistics.median(found[HADAL][kind]) / best
        lines.append(f"{name:>10} {kind}: {ratio:.2f} x the fastest peer")
    return lines


def main():
    """Measures and prints."""
    args = parse()
    peers = {}
    for peer in args.peer:
        name, _, program = peer.partition("=")
        if not os.access(program, os.X_OK):
            sys.exit(f"--peer {peer}: {program or 'no path'} is no program")
        beside = Path(program).parent / "llama-batched-bench"
        if args.batch and not os.access(beside, os.X_OK):
            sys.exit(f"--batch: there is no {beside}")
        peers[name] = program
    kinds = [(form, gguf(args, form), gguf(args, form)) for form in args.formats.split(",") if form]
    if args.fp8:
        kinds.append(("fp8", args.fp8, gguf(args, "q8_0")))
    every = {}
    print(f"prefill {args.prefill}, decode {args.decode} at depth {args.depth}, {args.threads} threads, "
          f"{args.rounds} x {args.samples} samples; medians in tokens a second")
    print(f"{'weights':>10} {'engine':>12} {'prefill':>10} {'decode':>10} {'peak':>11}")
    for name, model, peer_model in kinds:
        every[name] = measure(args, peers, name, model, peer_model)
        print("\n".join(table(args, name, every[name])), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(every, indent=1) + "\n")


if __name__ == "__main__":
    main()
