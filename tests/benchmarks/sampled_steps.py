"""Training steps of sampled networks, the CPU kernels beside plain torch, one thread.

    python tests/benchmarks/sampled_steps.py                                 # 3x32x32 at 11,400 and 100,000: 5 minutes
    python tests/benchmarks/sampled_steps.py --input 3x96x96 --max-params 50000 --number 10

Networks are drawn as a search draws its first ones. A step is forward and backward of a batch of random images, without
the optimizer, which is the same for both; the backends take turns, and each figure is the least processor time of its
turns, which other processes disturb least. Ratios are of the two figures of one network.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np

from nas.architecture import Architecture
from nas.budget import Budget
from nas.space import SearchSpace

BATCH, WARM_UP, ROUNDS = 64, 1, 3


def sample(number: int, cap: int, input_shape: tuple[int, int, int], seed: int) -> list[Architecture]:
    """Different networks under the cap."""
    space, rng = SearchSpace(budget=Budget(max_params=cap), input_shape=input_shape), np.random.default_rng(seed)
    found: dict[str, Architecture] = {}
    while len(found) < number:
        architecture = space.check(space.random(rng), found)
        if isinstance(architecture, Architecture):
            found[str(architecture)] = architecture
    return list(found.values())


def steps(architecture: Architecture) -> dict[str, Callable[[], object]]:
    """A step of each backend, on the same weights and images."""
    import torch
    from torch.nn import functional

    from nas.kernels import Network
    from nas.model import build

    ours, theirs = build(architecture, seed=0), build(architecture, seed=0)
    network = Network(architecture, ours)
    images = torch.randn(*architecture.input_shape, BATCH)
    labels = torch.randint(0, architecture.num_classes, (BATCH,))
    usual = images.permute(3, 0, 1, 2).contiguous()

    def plain() -> None:
        theirs.zero_grad(set_to_none=False)
        functional.cross_entropy(theirs(usual), labels).backward()

    return {"kernels": lambda: network.step(images, labels), "torch": plain}


def milliseconds(architecture: Architecture) -> dict[str, float]:
    """The least processor time of a step, by backend."""
    backends = steps(architecture)
    taken: dict[str, list[float]] = {name: [] for name in backends}
    for turn in range(WARM_UP + ROUNDS):
        for name, step in backends.items():
            began = time.process_time()
            step()
            if turn >= WARM_UP:
                taken[name].append(1000 * (time.process_time() - began))
    return {name: min(times) for name, times in taken.items()}


def compare(number: int, cap: int, input_shape: tuple[int, int, int], seed: int) -> None:
    """Print the networks that gain least, and what all of them come to."""
    rows = []
    for architecture in sample(number, cap, input_shape, seed):
        times = milliseconds(architecture)
        rows.append((times["torch"] / times["kernels"], times, architecture))
    rows.sort(key=lambda row: row[0])
    ratios = [ratio for ratio, _, _ in rows]
    print(f"\n{number} networks of at most {cap:,} parameters, batch {BATCH}; load {os.getloadavg()[0]:.1f}")
    print(
        f"torch / kernels: lowest {ratios[0]:.2f}, median {statistics.median(ratios):.2f}, highest {ratios[-1]:.2f}; "
        f"kernels slower: {sum(ratio < 1 for ratio in ratios)} of {number}"
    )
    print("| torch / kernels | kernels, ms | torch, ms | MACs | network |\n|-|-|-|-|-|")
    for ratio, times, architecture in rows if number <= 6 else [*rows[:3], *rows[-3:]]:
        print(
            f"| {ratio:.2f} | {times['kernels']:.1f} | {times['torch']:.1f} | {architecture.macs:,} | {architecture} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", default="3x32x32", help="the images' shape, CxHxW")
    parser.add_argument("--max-params", type=int, action="append", help="a cap (may be repeated)")
    parser.add_argument("--number", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import torch

    from nas.kernels import compile_all, unsuited

    if (reason := unsuited()) is not None:
        raise SystemExit(f"the kernels do not run here: {reason}")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    compile_all()
    channels, height, width = map(int, arguments.input.split("x"))
    for cap in arguments.max_params or (11_400, 100_000):
        compare(arguments.number, cap, (channels, height, width), arguments.seed)


if __name__ == "__main__":
    main()
