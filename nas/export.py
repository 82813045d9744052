"""Files from results, each re-read and checked before it takes its place.

A folder of files (the winner, a full run) is written beside its target and swapped in whole: whoever looks, at whatever
instant the process dies, finds the old folder or the new one. Reading a winner runs no code: `model.py` is for people.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.errors import StorageError

if TYPE_CHECKING:  # torch takes seconds to import: `write_atomic` must not wait for it
    from torch import Tensor, nn

__all__ = [
    "ONNX_TOLERANCE",
    "ExportedRun",
    "Winner",
    "check_onnx",
    "export_onnx",
    "export_run",
    "export_winner",
    "find_run",
    "read_run",
    "read_winner",
    "replace_folder",
    "write_atomic",
    "write_weights",
]

ONNX_TOLERANCE = 1e-4
"""Largest absolute difference of a logit allowed between the graph and the model. Folding the batch norm into the
convolutions rounds anew, and the kernels sum in another order: over 10,000 random images that came to 5e-7 to 4e-6 for
logits up to 1 and 13."""

_RUNS = ("result.json", "full-run-*/result.json", "*/full-run-*/result.json")

_RESULT: Mapping[str, type | UnionType] = {
    "schedule": str, "epochs": int, "seeds": list, "typical_seed": int, "final": dict, "last5_mean": float,
    "last5_sd": float | None, "target": float | None, "recipe": dict, "dataset": str, "data_hash": str, "mean": list,
    "std": list, "device": str, "torch": str, "time": str,
}  # fmt: skip
"""What is read of a result.json."""

_CHUNK = 1000  # images at a time through the model and the graph
_ABANDONED_S = 3600.0  # a temporary folder this old is a killed run's: an export takes a minute at most


@dataclass(frozen=True, kw_only=True)
class Winner:
    """What a winner's folder holds; `state_dict` is None where the folder came without its weights file."""

    architecture: Architecture
    recipe: dict[str, Any]
    reason: dict[str, Any]
    state_dict: dict[str, Tensor] | None


@dataclass(frozen=True, kw_only=True)
class ExportedRun:
    """What a full run's folder holds: its network, its result.json, and the averaged weights of its typical seed."""

    folder: Path
    architecture: Architecture
    result: dict[str, Any]
    state_dict: dict[str, Tensor]


def write_atomic(path: Path, content: bytes | str) -> None:
    """Writes the file whole or not at all, text as UTF-8.

    Raises `StorageError` where it cannot (full disk, no permission, no such folder); a file already there is then
    untouched.
    """
    path = Path(path)
    new = _temporary(path)
    try:
        with new.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)  # noqa: PTH105  named like the law
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_weights(path: Path, state_dict: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes weights as one safetensors file, whole or not at all, and makes its folder; raises `StorageError`."""
    from safetensors.torch import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error
    # Contiguous: safetensors takes no channels-last strides.
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
    write_atomic(path, save(state, None if metadata is None else dict(metadata)))


@contextlib.contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Gives a fresh folder to fill, which takes the place of `folder` when the block ends without an error.

    No system swaps two folders portably, so the old one is renamed aside, the new one in, the old one deleted; where a
    run dies between the renames, the next call (or `read_winner`) renames the old one back. On an error `folder` stays
    as it was and the new one is removed. Of two writers at once, the last wins. Raises `StorageError`.
    """
    folder = Path(folder).resolve()  # a link stays a link: what it points to is replaced
    new = _temporary(folder)
    try:
        try:
            _recover(folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            new.mkdir()
        except OSError as error:
            raise _cannot_write(folder, error) from error
        yield new
        try:
            _sync_folder(new)
            _swap(new, folder)
        except OSError as error:
            raise _cannot_write(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _sync_folder(folder.parent)


def export_winner(
    folder: Path,
    *,
    architecture: Architecture,
    recipe: Mapping[str, Any],
    reason: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
) -> list[Path]:
    """Writes a winner's folder and returns its files.

    architecture.txt and architecture.json, model.py (stand-alone, torch only), recipe.json, reason.json (why it won),
    weights.safetensors. `recipe` and `reason` are what JSON can hold: a tuple comes back as a list, NaN is refused.
    Raises `StorageError` where a file cannot be written or does not pass its check; the folder is then as it was.
    """
    with _network_folder(folder, architecture, state_dict) as new:
        _write_json(new / "recipe.json", recipe)
        _write_json(new / "reason.json", reason)
    return sorted(Path(folder).iterdir())


def read_winner(folder: Path) -> Winner:
    """The inverse of `export_winner`; raises `StorageError` where the folder is missing or damaged."""
    folder = Path(folder)
    with contextlib.suppress(OSError):  # a read-only disk: then the folder is missing, and said to be
        _recover(folder.resolve())
    if not folder.is_dir():
        raise StorageError(f"no winner in {folder}: run 'nas search' to its end first")
    architecture = _read_architecture(folder)
    weights = folder / "weights.safetensors"
    return Winner(
        architecture=architecture,
        recipe=_read_json(folder / "recipe.json"),
        reason=_read_json(folder / "reason.json"),
        state_dict=_read_weights(weights, architecture) if weights.exists() else None,
    )


def export_run(
    folder: Path,
    *,
    architecture: Architecture,
    result: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    state_dicts: Mapping[int, Mapping[str, Tensor]],
    typical_seed: int,
    images: Tensor | None,
    card: str,
) -> list[Path]:
    """Writes a full run's folder and returns its files.

    architecture.txt and architecture.json, model.py, log.csv (a row per seed and epoch; a column that a row lacks is
    empty), result.json, weights-seed<N>.safetensors of every seed of `state_dicts`, weights.safetensors and model.onnx
    of `typical_seed`, CARD.md (`card`). The graph is checked against the model on `images` (N, C, H, W), normalised; on
    random ones where there are none. Raises `StorageError` where a file cannot be written or does not pass its check,
    NaN in `result` included; the folder is then as it was.
    """
    import torch

    from nas.model import build

    with _network_folder(folder, architecture, state_dicts[typical_seed]) as new:
        _write_json(new / "result.json", result)
        _write_log(new / "log.csv", log)
        write_atomic(new / "CARD.md", card)
        for seed, state in state_dicts.items():
            _write_weights(new / f"weights-seed{seed}.safetensors", architecture, state)
        model = build(architecture, seed=0)
        model.load_state_dict(_read_weights(new / "weights.safetensors", architecture))
        model.eval()
        export_onnx(new / "model.onnx", model, architecture)
        if images is None:
            images = torch.randn(_CHUNK, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
        check_onnx(new / "model.onnx", model, images, ONNX_TOLERANCE)
    return sorted(Path(folder).iterdir())


def find_run(folder: Path) -> Path:
    """The full run in `folder`: itself, or the one begun last of a study's folder or of a folder of studies.

    By the time that each noted, not that of its files: a clone makes all of them at once. Raises `StorageError`.
    """
    found = [path.parent for pattern in _RUNS for path in Path(folder).glob(pattern)]
    if not found:
        raise StorageError(
            f"no full run in {Path(folder).resolve()}: name another folder, or run 'nas train-best' first"
        )
    return max(found, key=lambda path: (_read_result(path)["time"], path.name)) if len(found) > 1 else found[0]


def read_run(folder: Path) -> ExportedRun:
    """The inverse of `export_run` for what a later evaluation or training needs of a full run's folder.

    Raises `StorageError` where a file is missing or damaged, or they are not of one network.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError):  # as in `read_winner`
        _recover(folder.resolve())
    architecture, result = _read_architecture(folder), _read_result(folder)
    path = folder / "result.json"
    if result["schedule"] != str(architecture):
        raise _damaged(path, f"it is of '{result['schedule']}', not of '{architecture}'")
    if str(result["typical_seed"]) not in result["final"]:
        raise _damaged(path, f"it has no final accuracy of its typical seed, {result['typical_seed']}")
    if not len(result["mean"]) == len(result["std"]) == architecture.input_shape[0]:
        raise _damaged(path, "it has not one mean and one standard deviation a channel")
    weights = _read_weights(folder / "weights.safetensors", architecture)
    return ExportedRun(folder=folder, architecture=architecture, result=result, state_dict=weights)


def read_seeds(run: ExportedRun) -> dict[int, dict[str, Tensor]]:
    """The averaged weights of every seed of a full run. Raises `StorageError` where a file is missing or damaged."""
    seeds = [int(seed) for seed in run.result["final"]]
    paths = {seed: run.folder / f"weights-seed{seed}.safetensors" for seed in seeds}
    return {seed: _read_weights(path, run.architecture) for seed, path in paths.items()}


def export_onnx(path: Path, model: nn.Module, architecture: Architecture) -> None:
    """Writes `model`, in evaluation mode and on the CPU, as one self-contained ONNX file.

    Input "images" (N, C, H, W), float32 and normalised, N free; output "logits" (N, num_classes). The same model gives
    the same bytes. Raises `StorageError`.
    """
    import onnx
    import torch

    assert not model.training, "batch norm is exported with its running statistics"
    # An example batch of two: a dimension of one would be taken for a constant.
    example = torch.zeros(2, *architecture.input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks on its own internals; its errors are exceptions
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None, "the dynamo exporter returns its program"
    proto = program.model_proto
    # The exporter notes a stack trace at each node: paths of this machine, and half of the file.
    graph = proto.graph
    for part in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    onnx.helper.set_model_props(proto, _metadata(architecture))
    content = proto.SerializeToString(deterministic=True)
    onnx.checker.check_model(content, full_check=True)
    write_atomic(path, content)


def check_onnx(path: Path, model: nn.Module, images: Tensor, tolerance: float) -> float:
    """The largest absolute difference of a logit between the ONNX file and `model` over all `images`.

    Images are (N, C, H, W), normalised; the model is in evaluation mode and on the CPU. Raises `StorageError` where the
    file does not run, a difference is over `tolerance`, or a prediction differs whose margin (first logit less second)
    is over it.
    """
    import onnxruntime
    import torch
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    assert not model.training, "batch norm is compared with its running statistics"
    assert len(images), "a check on no images checks nothing"
    broken = (runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf, runtime.NoSuchFile,
              runtime.NotImplemented, runtime.RuntimeException)  # fmt: skip
    largest, flipped = 0.0, 0
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # its own choice is every core, and it spins on them
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for start in range(0, len(images), _CHUNK):
            chunk = images[start : start + _CHUNK].cpu().contiguous()
            with torch.no_grad():
                wanted = model(chunk)
            logits = torch.from_numpy(session.run(["logits"], {"images": chunk.numpy()})[0])
            difference = float((logits - wanted).abs().max())
            if not difference <= tolerance:  # NaN too
                raise StorageError(
                    f"{path} is not the model: a logit differs by {difference:.3g}, over the tolerance {tolerance:g}; "
                    "export again, with another version of onnxruntime if it persists"
                )
            first, second = wanted.topk(2).values.unbind(1) if wanted.shape[1] > 1 else (wanted[:, 0], wanted[:, 0])
            flipped += int(((logits.argmax(1) != wanted.argmax(1)) & (first - second > tolerance)).sum())
            largest = max(largest, difference)
    except broken as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"{path} does not run ({reason}); export again") from error
    if flipped:
        raise StorageError(
            f"{path} is not the model: {flipped} of {len(images)} predictions differ by more than the tolerance "
            f"of {tolerance:g}; export again, with another version of onnxruntime if it persists"
        )
    return largest


@contextlib.contextmanager
def _network_folder(folder: Path, architecture: Architecture, state_dict: Mapping[str, Tensor]) -> Iterator[Path]:
    """`replace_folder` with what every export holds already inside and checked: the network and its weights."""
    from nas.model import source

    folder = Path(folder)
    try:
        foreign = folder.exists() and any(folder.iterdir()) and not (folder / "architecture.json").exists()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    if foreign:
        raise StorageError(f"{folder} holds other files than an export, which would be deleted: name another folder")
    with replace_folder(folder) as new:
        write_atomic(new / "architecture.txt", f"{architecture}\n")
        write_atomic(new / "architecture.json", architecture.to_json() + "\n")
        if _read_architecture(new) != architecture:
            raise _damaged(new / "architecture.txt", f"it does not read as '{architecture}'")
        write_atomic(new / "model.py", source(architecture))
        _write_weights(new / "weights.safetensors", architecture, state_dict)
        _check_source(new / "model.py", architecture, _read_weights(new / "weights.safetensors", architecture))
        yield new


def _check_source(path: Path, architecture: Architecture, state: Mapping[str, Tensor]) -> None:
    """Runs the written model.py and compares its network with the one that was trained, bit for bit."""
    import torch

    from nas.model import build

    namespace: dict[str, Any] = {"__name__": "model"}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), namespace)
    with torch.device("meta"):  # no weights drawn, the caller's generator untouched
        networks = build(architecture), namespace["build"]()
    images = torch.randn(4, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    logits = []
    for network in networks:
        network.load_state_dict(state, strict=True, assign=True)
        with torch.no_grad():
            logits.append(network.eval()(images))
    if not torch.equal(*logits):
        raise _damaged(path, "its network does not give the logits of the one trained")
    count = sum(parameter.numel() for parameter in networks[1].parameters())
    if count != architecture.num_params:
        raise _damaged(path, f"its network has {count:,} parameters, not {architecture.num_params:,}")


def _read_architecture(folder: Path) -> Architecture:
    """The architecture of a folder, which its text and its JSON must both give."""
    text, fields = folder / "architecture.txt", folder / "architecture.json"
    try:
        architecture = Architecture.parse(_read_text(text))
    except ValueError as error:
        raise _damaged(text, str(error)) from error
    try:
        same = Architecture.from_json(_read_text(fields)) == architecture
    except (ValueError, TypeError) as error:
        raise _damaged(fields, str(error)) from error
    if not same:
        raise _damaged(fields, f"it describes another network than architecture.txt, '{architecture}'")
    return architecture


def _read_result(folder: Path) -> dict[str, Any]:
    """result.json, with what is read of it there and of its type."""
    path = folder / "result.json"
    result = _read_json(path)
    for name, kind in _RESULT.items():
        if name not in result:
            raise _damaged(path, f"'{name}' is missing")
        if not isinstance(result[name], kind):
            raise _damaged(path, f"'{name}' is {result[name]!r}")
    for name in ("mean", "std", "final", "seeds"):
        values = result[name].values() if name == "final" else result[name]
        if not all(isinstance(value, int | float) for value in values):
            raise _damaged(path, f"'{name}' holds other things than numbers")
    return result


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise StorageError(
            f"{path.name} is strict JSON ({error}): leave the number out where there is none, or write null"
        ) from error
    write_atomic(path, text + "\n")
    if _read_json(path) != json.loads(text):
        raise _damaged(path, "it does not read as it was written")


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(_read_text(path), parse_constant=refuse)
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds a {type(value).__name__}, not an object")
    return value


def _write_log(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())
    cells = [{name: "" if row.get(name) is None else str(row[name]) for name in columns} for row in rows]
    if list(csv.DictReader(io.StringIO(_read_text(path)))) != cells:
        raise _damaged(path, "it does not read as it was written")


def _write_weights(path: Path, architecture: Architecture, state_dict: Mapping[str, Tensor]) -> None:
    state = {name: tensor.detach().cpu() for name, tensor in state_dict.items()}
    if problem := _misfit(architecture, state):
        raise StorageError(f"weights that are not those of '{architecture}' cannot be exported: {problem}; train again")
    digest = _digest(state)
    write_weights(path, state, metadata={**_metadata(architecture), "sha256": digest})
    if _digest(_read_weights(path, architecture)) != digest:
        raise _damaged(path, "it does not read as it was written")


def _read_weights(path: Path, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of a file, in the order of the network's own state dict."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        state = load(content)
        # `load` keeps the metadata to itself: a file is eight bytes of length, a JSON header, then the tensors.
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if metadata.get("schedule") != str(architecture):
        raise _damaged(path, f"its weights are those of '{metadata.get('schedule')}', not of '{architecture}'")
    if problem := _misfit(architecture, state):
        raise _damaged(path, problem)
    if metadata.get("sha256") != _digest(state):
        raise _damaged(path, "its weights are not the ones its checksum was made of")
    return {name: state[name] for name in _empty_state(architecture)}


def _misfit(architecture: Architecture, state: Mapping[str, Tensor]) -> str:
    """Why `state` is not a state dict of the architecture; nothing where it is."""
    expected = _empty_state(architecture)
    if unpaired := sorted(expected.keys() ^ state.keys()):
        return f"'{unpaired[0]}' is {'missing' if unpaired[0] in expected else 'unknown'}"
    for name, tensor in expected.items():
        found = state[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            return f"'{name}' is {found.dtype} {tuple(found.shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
        if not found.isfinite().all():
            return f"'{name}' holds a number that is not finite"
    return ""


def _empty_state(architecture: Architecture) -> dict[str, Tensor]:
    """Names, shapes and types of the network's tensors, without their memory."""
    import torch

    from nas.model import build

    with torch.device("meta"):
        return build(architecture).state_dict()


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names and bits: safetensors itself notices a cut file, but no flipped bit."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + b"\0" + state[name].numpy().tobytes())
    return digest.hexdigest()


def _metadata(architecture: Architecture) -> dict[str, str]:
    return {"schedule": str(architecture), "num_params": str(architecture.num_params)}


def _swap(new: Path, folder: Path) -> None:
    aside = _aside(folder)
    for attempts_left in (2, 1, 0):
        try:
            if folder.exists():
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
            new.rename(folder)
            break
        except OSError:
            # Another writer, or a reader that took the gap for a killed run, may have put a folder there meanwhile.
            if not attempts_left:
                raise
        finally:
            _recover(folder)
    shutil.rmtree(aside, ignore_errors=True)


def _recover(folder: Path) -> None:
    """Renames the old folder back where a run died between the two renames."""
    if not folder.exists() and _aside(folder).is_dir():
        _aside(folder).rename(folder)


def _sweep(folder: Path) -> None:
    """Deletes what killed runs left beside `folder`."""
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
    for path in folder.parent.iterdir():
        if path.name.startswith(f".{folder.name}.") and path.name.endswith(".new"):
            with contextlib.suppress(OSError):  # another run's, gone meanwhile
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(path)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")


def _sync_folder(folder: Path) -> None:
    """Makes renames in the folder outlast a power cut, where the system has a way: Windows and some networks do not."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _damaged(path: Path, problem: str) -> StorageError:
    problem = " ".join(problem.split())  # it may quote the file, line breaks and all
    return StorageError(f"{path} is damaged: {problem}; delete {path.parent} and run the command that made it again")


def _cannot_write(path: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        step = "free some space and run the same command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        step = "name a folder that you may write to"
    else:
        step = "name another path"
    return StorageError(f"cannot write {path}: {error.strerror or error}; {step}")
