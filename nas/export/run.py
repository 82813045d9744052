"""A full run, as a folder: what it came to, the weights of each seed, and the network in every form."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.errors import StorageError
from nas.export.folder import WEIGHTS, check_inputs, network_folder, read_architecture
from nas.export.onnx import check_onnx, compute_logits, export_onnx
from nas.export.provenance import Provenance
from nas.export.weights import read_network, write_network
from nas.export.winner import read_winner
from nas.files import damaged, read_record, read_text, recover_folder, write_atomic, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from nas.data import Normalization
    from nas.model import TrainedNetwork

_RUNS = ("result.json", "full-run-*/result.json", "*/full-run-*/result.json")
_RANDOM_IMAGES = 1000


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """The scores of an imbalanced test split class by class, in percent: means over seeds and their last epochs."""

    counts: tuple[int, ...]
    """Test images of each class."""
    recalls: tuple[float | None, ...]
    """Share of each class's images that are predicted to be of it; None for a class without images."""
    balanced_mean: float
    """Last-5 balanced accuracy, the mean of the recalls."""
    balanced_sd: float | None
    """Sample standard deviation of it over seeds; None with one seed."""


@dataclass(frozen=True, kw_only=True)
class RunResult(Provenance):
    """A full run's result, and everything needed to make it again: result.json, a field for each of its keys.

    Accuracies are percent of the test split; mappings are by seed.
    """

    schedule: str
    num_params: int
    macs: int
    split: str
    epochs: int
    seeds: tuple[int, ...]
    last5_mean: float
    """Mean over seeds of the last-5 accuracy."""
    last5_sd: float | None
    """Sample standard deviation of it; None with one seed."""
    last5: Mapping[int, float]
    final: Mapping[int, float]
    """Accuracy after the last epoch, that of the weights."""
    lowest_of_last5: float
    target: float | None
    target_held: bool | None
    typical_seed: int
    """The seed in the middle by last-5 accuracy, whose weights are the network's."""
    seconds: Mapping[int, float]
    backend: tuple[str, ...]
    recipe: Mapping[str, Any]
    teacher: Mapping[str, Any] | None = None
    by_class: ClassScores | None = None
    """The scores class by class, if the classes' numbers of test images differ by more than half."""
    opened: str
    """How often the test split was opened for it, and where that is recorded."""
    reference: Mapping[str, Any] | None = None
    """The record's own statement of itself, in a reproduction."""

    @property
    def architecture(self) -> Architecture:
        """The network; raises `UsageError` if the schedule is none."""
        return Architecture.parse(self.schedule)

    @property
    def normalization(self) -> Normalization:
        """Mean and standard deviation that the network's images are normalised with."""
        from nas.data import Normalization

        return Normalization(mean=self.mean, std=self.std)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExportedRun:
    """A full run read from its folder: its result, and its network with the averaged weights of the typical seed."""

    folder: Path
    result: RunResult
    network: TrainedNetwork

    @property
    def architecture(self) -> Architecture:
        return self.network.architecture


def write_run(
    folder: Path,
    result: RunResult,
    *,
    state_dicts: Mapping[int, Mapping[str, Tensor]],
    log: Sequence[Mapping[str, Any]],
    card: str,
    images: Tensor | None,
) -> list[Path]:
    """Write a full run's folder and return its files.

    architecture.txt and architecture.json, model.py, result.json, log.csv (a row for each seed and epoch; a column that
    a row lacks is empty), CARD.md (`card`), weights-seed<N>.safetensors of each seed, and of the typical seed
    weights.safetensors and its graphs: model.onnx takes images on 0..1, model-raw.onnx normalised ones,
    model-batch1.onnx is model.onnx for one image at a time. They are checked against the network on `images` (N, C, H,
    W), uint8 or on 0..1; on random ones if there are none. Raises `StorageError` if a file cannot be written or does
    not pass its check, for NaN in `result` too; the folder is then as it was.
    """
    import torch

    from nas.data import own_options
    from nas.model import TrainedNetwork

    architecture = result.architecture
    check_inputs(Path(folder) / "result.json", result.normalization, result.classes, architecture)
    networks = {
        seed: TrainedNetwork(
            architecture=architecture, state_dict=state, normalization=result.normalization, classes=result.classes,
            preparation=own_options(result.dataset),
        )
        for seed, state in state_dicts.items()
    }  # fmt: skip
    network = networks[result.typical_seed]
    with network_folder(folder, network, float(result.recipe.get("dropout", 0.0))) as new:
        write_json(new / "result.json", dataclasses.asdict(result))
        write_csv_log(new / "log.csv", log)
        write_atomic(new / "CARD.md", card)
        for seed, each in networks.items():
            write_network(_seed_path(new, seed), each)
        read = read_run(new)
        if read.result != result:
            raise damaged(new / "result.json", "it does not read as it was written")
        if images is None:
            shape, generator = (_RANDOM_IMAGES, *architecture.input_shape), torch.Generator().manual_seed(0)
            images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        logits = compute_logits(read.network, images)
        for name, options in _GRAPHS.items():
            export_onnx(new / name, read.network, **options)
            check_onnx(new / name, read.network, images, logits=logits)
    return sorted(Path(folder).iterdir())


_GRAPHS: Mapping[str, Mapping[str, Any]] = {
    "model.onnx": {},
    "model-raw.onnx": {"raw": True},
    "model-batch1.onnx": {"batch": 1},
}


def find_run(folder: Path) -> Path:
    """Return the full run in `folder`: itself, or the one begun last in a study's folder or in a folder of studies.

    By the time that each states, not that of its files: a clone makes all of them at once. Raises `StorageError`.
    """
    found = [path.parent for pattern in _RUNS for path in Path(folder).glob(pattern)]
    hidden = len(Path(folder).parts)  # a study that is being copied is none yet
    found = [path for path in found if not any(part.startswith(".") for part in path.parts[hidden:])]
    if not found:
        raise StorageError(
            f"no full run in {Path(folder).resolve()}: name another folder, or run 'nas train-best' first"
        )
    return max(found, key=lambda path: (read_result(path).time, path.name)) if len(found) > 1 else found[0]


def read_result(folder: Path) -> RunResult:
    """Return the result.json of a full run's folder; raises `StorageError` if it is missing or damaged."""
    path = Path(folder) / "result.json"
    result = read_record(path, RunResult)
    if not set(result.seeds) == result.last5.keys() == result.final.keys() == result.seconds.keys():
        raise damaged(path, "it has not one last-5 accuracy, final accuracy and time for each of its seeds")
    if result.typical_seed not in result.final:
        raise damaged(path, f"it has no final accuracy of its typical seed, {result.typical_seed}")
    return result


def read_run(folder: Path) -> ExportedRun:
    """Return what `write_run` wrote that a later evaluation or training needs.

    Raises `StorageError` if a file is missing or damaged, or they are not of one network.
    """
    folder = Path(folder)
    recover_folder(folder)
    architecture, result = read_architecture(folder), read_result(folder)
    path = folder / "result.json"
    if result.schedule != str(architecture):
        raise damaged(path, f"it is of '{result.schedule}', not of '{architecture}'")
    if result.num_params != architecture.num_params:
        raise damaged(path, f"it has {result.num_params:,} parameters, its network {architecture.num_params:,}")
    check_inputs(path, result.normalization, result.classes, architecture)
    network = read_network(folder / WEIGHTS, architecture, result.normalization, result.classes)
    return ExportedRun(folder=folder, result=result, network=network)


def read_seeds(run: ExportedRun) -> dict[int, TrainedNetwork]:
    """Return the network of each seed of a full run; raises `StorageError` if a file is missing or damaged."""
    network = run.network
    return {
        seed: read_network(
            _seed_path(run.folder, seed), network.architecture, network.normalization, network.classes
        )
        for seed in run.result.seeds
    }  # fmt: skip


def load_trained(folder: Path | str) -> TrainedNetwork:
    """Return the network in a folder that a search (`best`) or a full run wrote; raises `StorageError`."""
    folder = Path(folder)
    recover_folder(folder)
    if (folder / "result.json").exists():
        return read_run(folder).network
    if not (folder / "reason.json").exists():
        raise StorageError(
            f"no network in {folder.resolve()}: name a full run's folder, or the folder 'best' of a search"
        )
    network = read_winner(folder).network
    if network is None:
        raise StorageError(f"no weights in {folder.resolve()}: run 'nas train-best', and name its folder")
    return network


def write_csv_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV and read them back; a column that a row lacks, or has None in, is empty there."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
    cells = [{name: "" if row.get(name) is None else str(row[name]) for name in columns} for row in rows]
    if list(csv.DictReader(io.StringIO(read_text(path)))) != cells:
        raise damaged(path, "it does not read as it was written")


def _seed_path(folder: Path, seed: int) -> Path:
    return folder / f"weights-seed{seed}.safetensors"
