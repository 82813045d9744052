"""A network as ONNX, and the check that the file is the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import StorageError
from nas.export.runtime import import_onnxruntime
from nas.export.tolerance import tolerance_of
from nas.export.weights import metadata
from nas.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from nas.model import TrainedNetwork

ON_UNIT_SCALE, NORMALISED = "0..1, normalised inside", "normalised before: (0..1 less mean) / std"
BYTES = "uint8, 0..255, normalised inside"
"""`input_scaling` in a graph's metadata: the images that its input takes."""

_CHUNK = 1000  # images at a time through the network and the graph


def export_onnx(
    path: Path, network: TrainedNetwork, *, raw: bool = False, probabilities: bool = False, batch: int | None = None
) -> None:
    """Write the network as one self-contained ONNX file.

    Input "images" (N, C, H, W), float32 on 0..1, or normalised already if `raw`; output "logits" (N, num_classes). With
    `probabilities`: input uint8, and output "probabilities" (N, num_classes). N is `batch`, or free if None. Its
    metadata state which input it takes, mean, standard deviation, classes, schedule and opset. The same network gives
    the same bytes. Raises `StorageError`.
    """
    import onnx

    from nas.export.onnx_graph import OPSET, onnx_model

    properties = {
        "input_scaling": BYTES if probabilities else NORMALISED if raw else ON_UNIT_SCALE,
        **metadata(network),
        "opset": str(OPSET),
    }
    model = onnx_model(network, raw=raw, probabilities=probabilities, batch=batch, properties=properties)
    content = model.SerializeToString(deterministic=True)
    onnx.checker.check_model(content, full_check=True)
    write_atomic(path, content)


def check_onnx(
    path: Path,
    network: TrainedNetwork,
    images: Tensor,
    tolerance: float | None = None,
    *,
    logits: Tensor | None = None,
) -> float:
    """Return the largest absolute difference of a logit, or a probability, between an ONNX file and the network.

    The images are uint8 or on 0..1 (N, C, H, W); a graph gets those that it takes. `logits` are
    the network's (`compute_logits`), if they are known. Raises `StorageError` if the file does not run or states
    another network or normalisation, a difference is over `tolerance` (default: `tolerance_of`), or a prediction
    differs whose margin (first less second) is over it.
    """
    import torch

    assert len(images), "a check on no images checks nothing"
    session, scaling = _session(path, network)
    logits = compute_logits(network, images) if logits is None else logits
    tolerance = tolerance_of(logits) if tolerance is None else tolerance
    largest, flipped = 0.0, 0
    for chunk, expected in zip(torch.split(images, _CHUNK), torch.split(logits, _CHUNK), strict=True):
        if scaling == BYTES:
            expected = expected.softmax(1)
        found = run_graph(path, session, _scaled(chunk.cpu(), network, scaling))
        difference = float((found - expected).abs().max())
        if not difference <= tolerance:  # NaN too
            raise StorageError(
                f"{path} is not the model: a logit differs by {difference:.3g}, over the tolerance {tolerance:g}; "
                "export again, with another version of onnxruntime if it persists"
            )
        top = expected.topk(min(2, expected.shape[1])).values
        flipped += int(((found.argmax(1) != expected.argmax(1)) & (top[:, 0] - top[:, -1] > tolerance)).sum())
        largest = max(largest, difference)
    if flipped:
        raise StorageError(
            f"{path} is not the model: {flipped} of {len(images)} predictions differ by more than the tolerance "
            f"of {tolerance:g}; export again, with another version of onnxruntime if it persists"
        )
    return largest


def compute_logits(network: TrainedNetwork, images: Tensor) -> Tensor:
    """Return the network's logits (N, num_classes) of images (N, C, H, W), uint8 or on 0..1, on the CPU."""
    import torch

    module = network.module()
    with torch.no_grad():
        chunks = torch.split(images, _CHUNK)
        return torch.cat([module(network.normalization.apply(chunk.cpu())) for chunk in chunks])


def _scaled(images: Tensor, network: TrainedNetwork, scaling: str) -> Tensor:
    """Return uint8 images, or images on 0..1, in the form that a graph takes."""
    import torch

    if scaling == NORMALISED:
        return network.normalization.apply(images)
    if scaling == BYTES:
        return images if images.dtype == torch.uint8 else (images * 255).round().to(torch.uint8)
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def open_session(path: Path) -> Any:
    """Return onnxruntime's session of a file; raises `StorageError` if it does not load."""
    import torch

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own choice is every core, and it spins on them
    options.log_severity_level = 4  # what is wrong is in the exception
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _broken() as error:
        raise _does_not_run(path, error) from error


def _session(path: Path, network: TrainedNetwork) -> tuple[Any, str]:
    """Return onnxruntime's session of a file, and which images it takes, by its metadata."""
    session = open_session(path)
    stated = session.get_modelmeta().custom_metadata_map
    for name, value in metadata(network).items():
        if stated.get(name) != value:
            raise StorageError(f"{path} is not the model: its {name} is {stated.get(name)}, not {value}; export again")
    if stated.get("input_scaling") not in (ON_UNIT_SCALE, NORMALISED, BYTES):
        raise StorageError(f"{path} does not say which images it takes in 'input_scaling'; export again")
    return session, str(stated["input_scaling"])


def run_graph(path: Path, session: Any, images: Tensor) -> Tensor:
    """Return the graph's output, one image at a time if it takes one."""
    import torch

    (stated,), (output,) = session.get_inputs(), session.get_outputs()
    size = stated.shape[0] if isinstance(stated.shape[0], int) else len(images)
    parts = torch.split(images.contiguous(), size)
    try:
        found = [session.run([output.name], {stated.name: each.numpy()})[0] for each in parts]
        return torch.cat([torch.from_numpy(each) for each in found])
    except _broken() as error:
        raise _does_not_run(path, error) from error


def _broken() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises for a file that is no graph, or cannot run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    return (
        runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf, runtime.NoSuchFile,
        runtime.NotImplemented, runtime.RuntimeException,
    )  # fmt: skip


def _does_not_run(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path} does not run ({str(error).splitlines()[0]}); export again")
