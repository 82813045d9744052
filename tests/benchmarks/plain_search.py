"""The search that one would write today after Optuna's PyTorch example: the opponent of `nas search` in end_to_end.py.

    python tests/benchmarks/plain_search.py --threshold 99.45 --timeout 7200

It knows nothing of `nas`: torch, torchvision and Optuna alone. A trial is a plain CNN (conv-BN-ReLU, max-pooling,
global average pooling) and a peak rate, drawn by Optuna's default sampler, TPE. Over the cap it is pruned before it is
trained; else it is trained for 15 epochs (AdamW, one-cycle) and pruned below the median at the same epoch. Its value is
its mean validation accuracy over the last 5 epochs. The study ends with the first value of at least `--threshold`, or
after `--timeout` seconds; the trial that these cut counts as pruned.

* The space is a kind one: of random draws, 52 % fit 8,000 parameters, 31 % have 4,000 to 8,000, 3 % have no map left.
* Images pass one by one through torchvision's transforms in the worker processes of a DataLoader, `--workers` of them
  for training, one per core by default, and as many for validation; all live as long as the study, and torch has its
  own number of threads besides.
* Run again, it goes on from its journal, a text file that `optuna-dashboard` opens as well. Its seconds are those up to
  the end of the last trial: one that was killed counts neither as work nor as time, and is left as failed.
* The last line is JSON: whether the threshold was reached, seconds over all runs, trials by state, the best trial.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

EPOCHS, LAST, BATCH = 15, 5, 128
PIXELS = 28

Loader = DataLoader[tuple[Tensor, Tensor]]


def loaders(data_dir: Path, held_out: list[int] | None, workers: int) -> tuple[Loader, Loader]:
    """MNIST's training set in two; without indices, a random sixth is held out for validation."""
    as_tensor = [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    affine = transforms.RandomAffine(
        degrees=8, translate=(1.4 / PIXELS, 1.4 / PIXELS), scale=(0.93, 1.07), shear=(-4, 4, -4, 4),
        interpolation=transforms.InterpolationMode.BILINEAR,
    )  # fmt: skip
    moved = datasets.MNIST(data_dir, train=True, download=True, transform=transforms.Compose([affine, *as_tensor]))
    still = datasets.MNIST(data_dir, train=True, download=True, transform=transforms.Compose(as_tensor))
    if held_out is None:
        held_out = torch.randperm(len(still), generator=torch.Generator().manual_seed(0))[: len(still) // 6].tolist()
    rest = sorted(set(range(len(still))) - set(held_out))
    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    return (
        DataLoader(Subset(moved, rest), batch_size=BATCH, shuffle=True, **options),
        DataLoader(Subset(still, held_out), batch_size=1000, **options),
    )


def build(trial: Trial) -> nn.Sequential:
    """A network of the space; pruned where its map would be gone. A second pool past the last layer is none."""
    padded = trial.suggest_categorical("padded", [True, False])
    depth = trial.suggest_int("depth", 4, 8)
    pools = {trial.suggest_int("pool1", 1, 3), trial.suggest_int("pool2", 3, 8)}
    layers: list[nn.Module] = []
    channels, side = 1, PIXELS
    for number in range(1, depth + 1):
        width = trial.suggest_int(f"width{number}", 4, 32)
        kernel = trial.suggest_categorical(f"kernel{number}", [1, 3])
        padding = kernel // 2 if padded else 0
        layers += [nn.Conv2d(channels, width, kernel, padding=padding, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels, side = width, side + 2 * padding - kernel + 1
        if number in pools:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        if side < 1:
            raise optuna.TrialPruned(f"no map is left after layer {number}")
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def objective(trial: Trial, train: Loader, validation: Loader, max_params: int, deadline: float) -> float:
    """Mean validation accuracy in percent over the last epochs."""
    model = build(trial)
    num_params = sum(parameter.numel() for parameter in model.parameters())
    trial.set_user_attr("num_params", num_params)
    if num_params > max_params:
        raise optuna.TrialPruned(f"{num_params} parameters, more than {max_params}")
    peak = trial.suggest_float("peak_rate", 1e-3, 5e-2, log=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=EPOCHS * len(train), pct_start=0.2)
    accuracies: list[float] = []
    for epoch in range(1, EPOCHS + 1):
        model.train()
        for images, labels in train:
            if time.perf_counter() > deadline:
                raise optuna.TrialPruned("out of time")
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
        accuracies.append(score(model, validation))
        trial.report(accuracies[-1], epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return fmean(accuracies[-LAST:])


@torch.inference_mode()
def score(model: nn.Module, validation: Loader) -> float:
    """Accuracy in percent."""
    model.eval()
    hits = [int((model(images).argmax(1) == labels).sum()) for images, labels in validation]
    return 100 * sum(hits) / len(validation.dataset)  # type: ignore[arg-type]


def search(options: argparse.Namespace) -> dict[str, Any]:
    """Run or resume the study of this cap and seed; what it came to."""
    began = time.perf_counter()
    study = optuna.create_study(
        study_name=f"plain-{options.max_params}-seed{options.seed}", direction="maximize",
        storage=JournalStorage(JournalFileBackend(str(options.journal))),
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=2), load_if_exists=True,
    )  # fmt: skip
    for killed in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(killed.number, state=TrialState.FAIL)
    # With the seed alone, a resumed study would draw its first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=1_000_000 * options.seed + len(study.trials))
    torch.manual_seed(1_000_000 * options.seed + len(study.trials))
    before = float(study.user_attrs.get("seconds", 0.0))
    deadline = began + options.timeout - before

    def reached() -> bool:
        return any(float(trial.values[0]) >= options.threshold for trial in study.get_trials(states=complete))

    def after(study: Study, trial: FrozenTrial) -> None:
        study.set_user_attr("seconds", before + time.perf_counter() - began)
        if reached() or time.perf_counter() > deadline:
            study.stop()

    complete = (TrialState.COMPLETE,)
    if not reached() and time.perf_counter() < deadline:
        held_out = options.validation and [int(index) for index in options.validation.read_text().split()]
        train, validation = loaders(options.data_dir, held_out, options.workers)
        study.optimize(
            lambda trial: objective(trial, train, validation, options.max_params, deadline),
            callbacks=[after],
        )  # fmt: skip
    best = max(study.get_trials(states=complete), key=lambda trial: float(trial.values[0]), default=None)
    return {
        "reached": reached(),
        "seconds": float(study.user_attrs.get("seconds", 0.0)),
        "trials": dict(Counter(trial.state.name for trial in study.trials)),
        "over_cap": sum(trial.user_attrs.get("num_params", 0) > options.max_params for trial in study.trials),
        "trained": sum(bool(trial.intermediate_values) for trial in study.trials),  # for one epoch or more
        "best": best and {"last5": best.value, "num_params": best.user_attrs["num_params"], "params": best.params},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    add("--max-params", type=int, default=8000, help="the cap (default 8000)")
    add("--threshold", type=float, default=99.45, help="validation accuracy in percent to reach (default 99.45)")
    add("--timeout", type=float, default=3600, help="seconds over all runs of the study (default 3600)")
    add("--seed", type=int, default=0, help="of the draws and of the weights (default 0)")
    add("--journal", type=Path, default=Path("plain.journal"), help="of its trials (default plain.journal)")
    add("--validation", type=Path, metavar="FILE", help="indices of the validation images, one a line")
    add("--workers", type=int, default=cores, help="DataLoader processes (default: one for each core)")
    add("--data-dir", type=Path, default=Path(os.environ.get("NAS_DATA_DIR", "data")), help="where MNIST is")
    print(json.dumps(search(parser.parse_args())), flush=True)


if __name__ == "__main__":
    main()
