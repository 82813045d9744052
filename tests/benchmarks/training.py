"""Seconds per epoch of MNIST on this machine's CPU: the plain loop, our loop on plain torch, our loop on the kernels.

    python tests/benchmarks/training.py                           # partial epochs, about four minutes on two cores
    python tests/benchmarks/training.py --epochs 1 --rounds 3     # whole epochs, about half an hour
    python tests/benchmarks/training.py --sampled 50              # networks of the search space: kernels against torch

Throughput of the whole machine, all cores busy, batch 128, float32. The plain loop is one process with torch's default
threads, once with 0 DataLoader workers and once with one per core; the faster counts. Our loop runs a process of one
thread on every core, all at once: seconds per epoch = wall time of the slowest / (epochs x processes).

* All take the same steps: batch, augmentation, forward, backward, optimizer, running loss and hits. Nothing is
  evaluated (with --epochs, ours scores ten images per epoch). The augmentation is the same, bilinear in both; the plain
  loop has no average of the weights.
* A partial epoch is `--steps` steps after a warm-up, scaled to 60,000 images. It leaves out what comes once per epoch:
  starting the DataLoader's workers, and the random draws of our loop (5 ms). `--epochs` counts both.
* The loops take turns, round by round. A figure is the median of the rounds, with the lowest and the highest; ratios
  are taken within a round, so that a slow minute of the machine falls on both sides.
* GFLOP/s = 3 passes (forward, input gradient, weight gradient) x 2 x MACs of the convolutions x images / second;
  nothing else is counted. The peak is that of fused multiply-adds in registers, on all cores at once, in every round.
* Memory is the peak resident set of one training process with MNIST, and what of it is beyond the imported libraries; a
  DataLoader's workers come on top.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from training_loops import BATCH, IMAGES, STEPS, WARM_UP, Crew, Options

from nas.architecture import Architecture

NETWORKS = {
    "start": "8vr 9vr 10vr M 12vr 16vr 20vr C G",
    "separable": "8v s16v M s24v s24v M s32 s32 G Cb",
    "wide early": "10v 30v 10k1 M 14v 14v 14v 14v G C",
    "three stages": "4b 4b M 8b 8b M 16b 16b Cb G",
    "thousand": "4v 4v M 6v s8 s8 M s12 G C",
}

progress = Console(stderr=True, soft_wrap=True)


def measure(text: str, options: Options) -> dict[str, Any]:
    """One network under every loop, in turns: seconds per epoch in every round, and what follows from them."""
    scale = IMAGES / options.images
    workers = {f"plain, {count} workers": count for count in (0, options.processes)}
    with contextlib.ExitStack() as stack:
        plain = {name: stack.enter_context(Crew(options, plain=True)) for name in workers}
        ours = {name: stack.enter_context(Crew(options)) for name in ("torch", "kernels")}
        crews = plain | ours
        started = {name: crew.do("start")[0] for name, crew in crews.items()}
        seconds: dict[str, list[float]] = {name: [] for name in crews}
        peaks = []
        for number in range(1, options.rounds + 1):
            for name, crew in plain.items():
                seconds[name] += [scale * taken for taken in crew.do("plain", text, options.steps, workers[name])]
            for name, crew in ours.items():
                seconds[name].append(scale * max(crew.do("ours", text, options.steps, name)) / options.processes)
            peaks.append(sum(ours["kernels"].do("peak")))
            taken = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in seconds.items())
            progress.print(f"  round {number} of {options.rounds}: {taken}", highlight=False)
        memory = {name: max(crew.do("memory")) for name, crew in crews.items()}
    architecture = Architecture.parse(text)
    fairer = min(plain, key=lambda name: statistics.median(seconds[name]))
    flops = 3 * 2 * architecture.macs * IMAGES / 1e9
    loops = {
        name: {
            "seconds": _summary(rounds),
            "to_plain": _summary([a / b for a, b in zip(seconds[fairer], rounds, strict=True)]),
            "gflops": flops / statistics.median(rounds),
            "share_of_peak": statistics.median(flops / s / p for s, p in zip(rounds, peaks, strict=True)),
            "threads": started[name][0],
            "libraries_mb": started[name][1],
            "peak_mb": memory[name],
        }
        for name, rounds in seconds.items()
    }
    return {
        "network": text,
        "num_params": architecture.num_params,
        "macs": architecture.macs,
        "plain": fairer,
        "loops": loops,
        "torch_to_kernels": _summary([a / b for a, b in zip(seconds["torch"], seconds["kernels"], strict=True)]),
        "peak_gflops": _summary(peaks),
    }


def _summary(rounds: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(rounds), "low": min(rounds), "high": max(rounds), "rounds": rounds}


def _spread(summary: dict[str, Any], digits: int) -> str:
    return f"{summary['median']:.{digits}f} ({summary['low']:.{digits}f}-{summary['high']:.{digits}f})"


def table(results: dict[str, dict[str, Any]], options: Options) -> Table:
    """One row for each loop; the ratio of the two backends stands in the row of the kernels."""
    peak = statistics.median(result["peak_gflops"]["median"] for result in results.values())
    amount = f"{options.images:,} images a process and round" + ("" if options.images % IMAGES else ", whole epochs")
    shown = Table(
        title=f"Seconds per epoch of MNIST ({IMAGES:,} images), batch {BATCH}, {options.processes} process(es) of ours",
        caption=f"median (lowest-highest) of {options.rounds} rounds; {amount}; FMA peak {peak:.0f} GFLOP/s of "
        f"{options.processes} process(es); 3 x 2 x MACs x images / second; * the faster plain loop: ratios are to it",
    )
    for heading in ("network", "loop", "s / epoch", "plain / it", "torch / it", "GFLOP/s", "of peak", "MB (own)"):
        shown.add_column(heading, justify="left" if heading in ("network", "loop") else "right", no_wrap=True)
    for name, result in results.items():
        described = [name, result["network"], f"{result['num_params']:,} parameters", f"{result['macs']:,} MACs"]
        for number, (loop, row) in enumerate(result["loops"].items()):
            last = number == len(result["loops"]) - 1
            shown.add_row(
                described[number] if number < len(described) else "",
                loop + (" *" if loop == result["plain"] else ""),
                _spread(row["seconds"], 2),
                "" if loop.startswith("plain") else _spread(row["to_plain"], 1),
                _spread(result["torch_to_kernels"], 2) if loop == "kernels" else "",
                f"{row['gflops']:.1f}",
                f"{row['share_of_peak']:.1%}",
                f"{row['peak_mb']:.0f} ({row['peak_mb'] - row['libraries_mb']:.0f})",
                end_section=last,
            )
    return shown


def compare_sampled(number: int, cap: int, seed: int, options: Options) -> dict[str, Any]:
    """Milliseconds per step over random networks; every core takes its share of them, one thread each."""
    with Crew(options) as crew:
        shares = crew.do("sampled", number, cap, seed, options.steps, options.rounds)
    rows = sorted((row for share in shares for row in share), key=lambda row: row["ratio"])
    return {
        "number": len(rows),
        "cap": cap,
        "seed": seed,
        "slower": [row for row in rows if row["ratio"] < 1 / 1.05],
        "ratio": _summary([row["ratio"] for row in rows]),
        "networks": rows,
    }


def sampled_table(result: dict[str, Any], options: Options) -> Table:
    """The five networks that gain least and the five that gain most, and every one that loses."""
    rows, losing = result["networks"], len(result["slower"])
    shown = Table(
        title=f"Milliseconds per step of batch {BATCH} on one thread, {result['number']} sampled networks of at most "
        f"{result['cap']:,} parameters, {options.processes} process(es) of ours",
        caption=f"torch / kernels: median {result['ratio']['median']:.2f}, lowest {result['ratio']['low']:.2f}, "
        f"highest {result['ratio']['high']:.2f}; slower than torch by more than 5 %: {losing} of {result['number']}",
    )
    for heading in ("network", "parameters", "MACs", "torch", "kernels", "torch / kernels"):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    head = max(5, losing)
    chosen = rows if len(rows) <= head + 5 else [*rows[:head], None, *rows[-5:]]
    for row in chosen:
        if row is None:
            shown.add_row("...")
            continue
        shown.add_row(
            row["network"], f"{row['num_params']:,}", f"{row['macs']:,}", f"{row['torch']:.2f}",
            f"{row['kernels']:.2f}", f"{row['ratio']:.2f}", style="red" if row in result["slower"] else None,
        )  # fmt: skip
    return shown


def prepare(data_dir: Path | None) -> tuple[Any, dict[str, Any]]:
    """The training data, with the kernels compiled, and what all of it runs on."""
    import records

    from nas import data, kernels

    dataset = data.prepare_dataset("mnist", data_dir=data_dir)
    if (reason := kernels.unsuited()) is not None:
        raise SystemExit(f"the kernels do not run here: {reason}")
    progress.print("compiling the kernels, a minute or two where they are not in the cache", highlight=False)
    kernels.compile_all()
    return data.load_training_data(dataset, data_dir=data_dir, validation=None), records.machine("cpu")


def arguments_of(parser: argparse.ArgumentParser) -> argparse.Namespace:
    add = parser.add_argument
    add("--network", action="append", choices=list(NETWORKS), help="only this one (may be repeated)")
    add("--architecture", action="append", metavar="SCHEDULE", default=[], help="another network, as text")
    add("--rounds", type=int, default=3, help="turns of every loop (default 3)")
    add("--steps", type=int, help="timed steps of a partial epoch (default 60; 10 with --sampled)")
    add("--epochs", type=int, help="whole epochs instead of --steps")
    add("--sampled", type=int, metavar="N", help="the backends over N networks of the space, and nothing else")
    add("--max-params", type=int, default=8000, help="the cap of --sampled (default 8000)")
    add("--seed", type=int, default=0, help="the seed of --sampled (default 0)")
    add("--processes", type=int, help="processes of our loop (default: one for each core)")
    add("--data-dir", type=Path, help="where MNIST is (default: NAS_DATA_DIR, then the user's caches)")
    add("--json", type=Path, metavar="FILE", help="everything measured, every round")
    arguments = parser.parse_args()
    if arguments.steps is not None and arguments.epochs is not None:
        parser.error("--steps and --epochs exclude each other")
    if arguments.steps is None:
        arguments.steps = 10 if arguments.sampled else 60
    if not 1 <= arguments.steps < STEPS - WARM_UP:
        parser.error(f"--steps is 1 to {STEPS - 1 - WARM_UP}: for more, take --epochs")
    for name in ("rounds", "epochs", "sampled", "processes"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name} is 1 or more, not {value}")
    return arguments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments = arguments_of(parser)
    from nas import data
    from nas.errors import NasError

    load = os.getloadavg()[0]
    if load > 0.5:
        progress.print(f"the machine is not quiet (load {load:.1f}): the figures will be too slow", style="yellow")
    try:
        networks = {name: NETWORKS[name] for name in arguments.network or ([] if arguments.architecture else NETWORKS)}
        networks |= {f"own {n}": str(Architecture.parse(text)) for n, text in enumerate(arguments.architecture, 1)}
        training, machine = prepare(arguments.data_dir)
    except NasError as error:
        raise SystemExit(f"error: {error}") from None
    options = Options(
        processes=arguments.processes or machine["cores"],
        rounds=arguments.rounds,
        steps=arguments.epochs * STEPS if arguments.epochs else arguments.steps,
        images=arguments.epochs * IMAGES if arguments.epochs else arguments.steps * BATCH,
        training=training,
        data_dir=data.data_root(arguments.data_dir),
    )
    report: dict[str, Any] = {
        "machine": machine | {"load_before": load},
        "batch_size": BATCH,
        "steps": options.steps,
        "images": options.images,
        "rounds": options.rounds,
        "processes": options.processes,
    }
    began = time.perf_counter()
    if arguments.sampled:
        report["sampled"] = compare_sampled(arguments.sampled, arguments.max_params, arguments.seed, options)
        shown = sampled_table(report["sampled"], options)
    else:
        report["networks"] = {}
        for name, text in networks.items():
            progress.print(f"{name}: {text}", highlight=False)
            report["networks"][name] = measure(text, options)
        shown = table(report["networks"], options)
    report["seconds"] = time.perf_counter() - began
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(shown)
    console.print(
        f"{machine['processor']}, {machine['cores']} core(s); Python {machine['python']}, torch {machine['torch']}, "
        f"torchvision {machine['torchvision']}; load before {load:.1f}; measured in {report['seconds']:.0f} s",
        highlight=False,
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
