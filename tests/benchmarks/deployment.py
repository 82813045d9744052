"""What the committed records of MNIST come to when deployed: accuracy, flash, memory, time.

    python tests/benchmarks/deployment.py [--caps 1000 2600 8000] [--repeats 300] [--calibration 1000]

Prints Markdown. Float is the folded network; int8 is calibrated on training images. "plain" is onnxruntime's own
`quantize_static` with its defaults for accuracy (each output channel, unsigned activations) on the same images. Every
int8 logit of C and of onnxruntime is compared on all 10,000 test images. Opens the test split of runs that have opened
it before, and chooses nothing by it. Times are process times of one thread, the quickest of ten parts, one image at a
time; with `emx-onnx-cgen` installed, its C code of the same two graphs stands beside.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "export"), str(TESTS)]

from cortex import PROCESSORS, compiler, run  # noqa: E402
from deployed import mnist, record  # noqa: E402

from nas.export.c import compiled_size, write_c  # noqa: E402
from nas.export.fold import FloatClassifier, FloatConvolution, FoldedNetwork, fold  # noqa: E402
from nas.export.int8 import INT8_BATCH_1_FILE, INT8_FILE, check_int8, compare_int8, write_int8  # noqa: E402
from nas.export.integer import IntegerNetwork  # noqa: E402
from nas.footprint import GlobalAveragePool, MaxPool  # noqa: E402
from nas.model import TrainedNetwork  # noqa: E402

PARTS = 10


def float_graph(folded: FoldedNetwork, batch: int | str) -> bytes:
    """The folded network (without residuals, as the records are) in plain float operators."""
    nodes: list[Any] = []
    constants: list[Any] = []

    def node(kind: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{kind}{len(nodes)}"], **attributes))
        return f"{kind}{len(nodes) - 1}"

    def constant(value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(constants)}"))
        return f"c{len(constants) - 1}"

    x = "images"
    for operation in folded.operations:
        match operation:
            case FloatConvolution():
                if operation.pad_value is not None:
                    x = node("Sub", [x, constant(operation.pad_value.reshape(1, -1, 1, 1))])
                    offset = (operation.weight * operation.pad_value.reshape(1, -1, 1, 1)).sum((1, 2, 3))
                else:
                    offset = 0
                inputs = [x, constant(operation.weight), constant((operation.bias + offset).astype(np.float32))]
                x = node(
                    "Conv", inputs, group=operation.groups, strides=[operation.stride] * 2,
                    pads=[operation.padding] * 4, kernel_shape=[operation.kernel_size] * 2,
                )  # fmt: skip
                x = node("Relu", [x]) if operation.relu else x
            case MaxPool():
                x = node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
            case GlobalAveragePool():
                x = node("GlobalAveragePool", [x])
            case FloatClassifier():
                node("Gemm", [node("Flatten", [x]), constant(operation.weight.T.copy()), constant(operation.bias)])
    nodes[-1].output[0] = "logits"
    shape = [batch, *folded.input_shape]
    graph = helper.make_graph(
        nodes, "float", [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(folded.classes)])], constants,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def plain_int8(folded: FoldedNetwork, images: Tensor, folder: Path) -> Path:
    """onnxruntime's own static quantisation."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(images.float().split(100))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"images": part.numpy()}

    (folder / "float.onnx").write_bytes(float_graph(folded, "batch"))
    quantize_static(
        folder / "float.onnx", folder / "plain.onnx", Reader(), quant_format=QuantFormat.QOperator, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return folder / "plain.onnx"


def session(model: Path | bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def milliseconds(call: Callable[[int], object], repeats: int) -> float:
    """Process time per call, the quickest of some parts."""
    times = []
    for _ in range(PARTS):
        start = time.process_time()
        for number in range(repeats):
            call(number)
        times.append((time.process_time() - start) / repeats * 1e3)
    return min(times)


def library(sources: Sequence[Path], flags: Sequence[str] = ("-O2",)) -> ctypes.CDLL:
    target = sources[0].with_suffix(".so")
    subprocess.run(["gcc", "-std=c99", *flags, "-shared", "-fPIC", "-o", target, *sources, "-lm"], check=True)
    return ctypes.CDLL(str(target))


def address(array: np.ndarray) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def c_logits(folder: Path, images: Tensor, kind: type) -> tuple[np.ndarray, Callable[[int], object]]:
    """All logits of the compiled code, and a call of it for one image."""
    predict = library([folder / "nas_net.c"]).nas_net_predict
    pixels = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    found = np.zeros((len(images), 10), kind)
    for image, row in zip(pixels, found, strict=True):
        predict(address(image), address(row))
    pointers, row = [address(image) for image in pixels[:1000]], address(np.zeros(10, kind))
    return found, lambda number: predict(pointers[number], row)


def other_generator(model: bytes, name: str, folder: Path, image: np.ndarray) -> str:
    """Flash and memory, M0+, and time on this machine of emx-onnx-cgen's code; or why there is none."""
    source, target = folder / f"{name}.c", folder / f"{name}.o"
    (folder / f"{name}.onnx").write_bytes(model)
    command = [sys.executable, "-m", "emx_onnx_cgen", "compile", "--large-temp-threshold", "0"]  # all on the stack
    done = subprocess.run([*command, folder / f"{name}.onnx", source], capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr or done.stdout).strip().splitlines()[-1]
    options = ["-std=c99", "-fstack-usage", "-c", "-o", target]
    subprocess.run([*compiler(PROCESSORS[0]), *options, source], check=True, capture_output=True)
    line = subprocess.run(["arm-none-eabi-size", target], capture_output=True, text=True, check=True).stdout
    text, data, bss = line.splitlines()[1].split()[:3]
    stack = max(int(row.split("\t")[1]) for row in target.with_suffix(".su").read_text().splitlines())
    predict, logits = library([source]).model, np.zeros((1, 10), np.float32)
    pointers = address(image), address(logits)
    spent = milliseconds(lambda _: predict(*pointers), 100)
    return f"{text}/{data}/{bss} bytes, {stack} on the stack, {spent:.3f} ms"


def measure(cap: int, arguments: argparse.Namespace, folder: Path) -> None:
    root = arguments.data
    network: TrainedNetwork = record(cap)
    train, _ = mnist(root, "train", 60_000)
    generator = torch.Generator().manual_seed(0)
    calibration = train[torch.randperm(len(train), generator=generator)[: arguments.calibration]]
    images, labels = mnist(root, "t10k", 10_000)
    folded = fold(network)

    start = time.perf_counter()
    report = write_int8(folder, network, calibration)
    seconds = time.perf_counter() - start
    integer: IntegerNetwork = report.network
    check_int8((folder / INT8_FILE).read_bytes(), integer, images)
    compared = compare_int8(network, integer, images, labels)
    plain = session(plain_int8(fold(network), calibration, folder)).run(None, {"images": images.float().numpy()})[0]
    wanted = torch.cat([folded.run(part) for part in images.split(500)]).numpy()
    print(f"\n### {cap}: `{network.architecture}`, {network.architecture.num_params:,} parameters\n")
    print(f"calibrated, written and checked in {seconds:.1f} s on {len(calibration)} images\n")
    print("| | accuracy, % of 10,000 | agreement with float, % |\n|-|-|-|")
    print(f"| float | {compared.float_accuracy:.2f} | |")
    print(f"| int8 | {compared.int8_accuracy:.2f} | {compared.agreement:.2f} |")
    hits, same = (plain.argmax(1) == labels.numpy()).mean(), (plain.argmax(1) == wanted.argmax(1)).mean()
    print(f"| plain quantize_static | {100 * hits:.2f} | {100 * same:.2f} |\n")

    times = {}
    print("| | weights | tables | RAM counted | M0+ text/data/bss | M4 | M7 | instructions M0+ | M4 | M7 | M7 -O2 |")
    print("|-|-|-|-|-|-|-|-|-|-|-|")
    for name, form in (("int8", integer), ("float", None)):
        (folder / name).mkdir()
        written = write_c(folder / name, network, train[:10], form).size
        sizes = [compiled_size(folder / name, compiler(processor)) for processor in PROCESSORS]
        texts = [f"{size.text}/{size.data}/{size.bss}" for size in sizes if size is not None]
        counts = [run(folder / name, processor) for processor in PROCESSORS]
        counts.append(run(folder / name, PROCESSORS[-1], "-O2"))
        assert not any(wrong for wrong, _ in counts)
        millions = [f"{count / 1e6:.2f} M" for _, count in counts]
        print(
            f"| {name} | {written.weights} | {written.tables} | {written.arena} | {' | '.join([*texts, *millions])} |"
        )
        found, call = c_logits(folder / name, images, np.float32 if form is None else np.int32)
        times[f"C {name}, gcc -O2"] = milliseconds(call, arguments.repeats)
        if form is None:
            difference = np.abs(found - wanted).max()
        else:
            exact = torch.cat([form.run(part) for part in images.split(500)]).numpy()
            difference = np.abs(found - exact).max()
        print(f"<!-- {name}: largest difference of a logit on 10,000 images: {difference:.3g} -->")

    pixels = images[:1000].numpy()[:, None]
    floats = pixels.astype(np.float32)
    for name, model, source in (
        ("onnxruntime int8", folder / INT8_BATCH_1_FILE, pixels),
        ("onnxruntime float", float_graph(folded, 1), floats),
    ):
        runtime = session(model)
        times[name] = milliseconds(lambda n, r=runtime, s=source: r.run(None, {"images": s[n]}), arguments.repeats)
    module, normalized = network.module(), network.normalization.apply(images[:1000])[:, None]
    with torch.no_grad():
        times["torch, eager"] = milliseconds(lambda number: module(normalized[number]), arguments.repeats)
    print("\n| ms per image, one thread |", " | ".join(times), "|\n|-|", "-|" * len(times))
    print("| |", " | ".join(f"{value:.3f}" for value in times.values()), "|\n")
    if arguments.other:
        for name, model, source in (
            ("int8", (folder / INT8_BATCH_1_FILE).read_bytes(), pixels),
            ("float", float_graph(folded, 1), floats),
        ):
            print(f"emx-onnx-cgen, {name}:", other_generator(model, f"other-{name}", folder, source[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--caps", type=int, nargs="+", default=[1000, 2600, 8000])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds MNIST/raw")
    parser.add_argument("--other", action="store_true", help="measure emx-onnx-cgen too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for cap in arguments.caps:
        folder = Path(tempfile.mkdtemp())
        try:
            measure(cap, arguments, folder)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
