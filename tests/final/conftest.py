"""Real full runs, small: made once, and copied where a test changes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nas import data
from nas.architecture import Architecture
from nas.export import Provenance
from nas.final import OPENINGS, FullRun, FullRunPlan, full_run
from nas.machine import environment
from nas.train import Recipe
from nas.workers import LocalPool

SMALL, LARGE = (
    Architecture.parse(text, input_shape=(1, 16, 16), num_classes=4) for text in ("4v M 6 G C", "6 M 8 8 G C")
)
RECIPE = Recipe(epochs=2, batch_size=64, peak_lr=0.03)
SEEDS = (0, 1)
RECORD = "records/700"


def train(base: Path, architecture: Architecture) -> FullRun:
    training = data.load_training_data(data.find_dataset("synthetic"), data_dir=None, validation=None)
    purpose = f"full run of {architecture}, seeds 0, 1"
    test = data.open_test(training.dataset, data_dir=None, log=base / OPENINGS, purpose=purpose)
    plan = FullRunPlan(architecture=architecture, recipe=RECIPE, dataset="synthetic", seeds=SEEDS, base=base)
    provenance = Provenance.of(training, training.dataset, environment("cpu"))
    with LocalPool(training, test, backend="torch") as pool:
        return full_run(plan, training, test, pool, provenance, opened="once", on_message=lambda message: None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[FullRun, FullRun]:
    """Full runs of two networks: of two seeds and two epochs, on the synthetic set."""
    studies = tmp_path_factory.mktemp("trained") / "studies"
    small, large = (train(studies / name, network) for name, network in (("small", SMALL), ("large", LARGE)))
    return small, large


@pytest.fixture
def studies(trained: tuple[FullRun, FullRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of studies: `small` and `large`, and of the first a record, 700."""
    folder = tmp_path / "studies"
    shutil.copytree(trained[0].folder.parents[1], folder)
    shutil.copytree(folder / "small" / trained[0].folder.name, folder / RECORD)
    shutil.copy(folder / "small" / OPENINGS, folder / RECORD)
    monkeypatch.setenv("NAS_STUDIES", str(folder))
    return folder


@pytest.fixture
def copied(trained: tuple[FullRun, FullRun], studies: Path) -> Path:
    """The folder of the first full run in the copy."""
    return studies / "small" / trained[0].folder.name
