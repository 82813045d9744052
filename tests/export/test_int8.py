"""The integer network: onnxruntime gives its very logits, and they are close to the float network's."""

from __future__ import annotations

import onnx
import pytest
import torch
from deployed import ARCHITECTURES, RECORDS, mnist, random_images, random_network, record
from hypothesis import given, settings
from strategies import architectures

from nas.architecture import Architecture
from nas.errors import StorageError, UsageError
from nas.export.fold import fold
from nas.export.int8 import INT8_FILE, check_int8, compare_int8, int8_model, write_int8
from nas.export.integer import IntClassifier, IntegerNetwork
from nas.export.quantize import quantize


def integer(text: str, count: int = 24) -> tuple[IntegerNetwork, torch.Tensor]:
    architecture = Architecture.parse(text)
    images = random_images(architecture, count)
    return quantize(fold(random_network(architecture), one_pad_value=True), images), images


@settings(max_examples=25)
@given(architectures(max_side=12))
def test_onnxruntime_gives_the_very_logits(architecture: Architecture) -> None:
    images = random_images(architecture, 8)
    network = quantize(fold(random_network(architecture), one_pad_value=True), images)
    other = random_images(architecture, 8, seed=1)
    for batch in (None, 1):
        check_int8(int8_model(network, batch=batch).SerializeToString(), network, other[:batch])


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_integer_logits_are_close_to_float_ones(text: str) -> None:
    network, images = integer(text)
    wanted = fold(random_network(Architecture.parse(text))).run(images)
    error = network.run(images).double() * float(network.logit_scale) - wanted
    assert error.square().mean().sqrt() <= 0.1 * wanted.std() + 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_the_graph_is_integer_to_the_logits_and_has_standard_operators(text: str) -> None:
    model = int8_model(integer(text)[0])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 13)]
    shown = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in shown.value_info}
    last_two = {node.output[0] for node in model.graph.node[-2:]}  # to float, times the scale
    assert {kind for name, kind in kinds.items() if name not in last_two} <= {
        onnx.TensorProto.UINT8, onnx.TensorProto.INT32,
    }  # fmt: skip
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_a_changed_graph_is_refused() -> None:
    network, images = integer(ARCHITECTURES[0])
    model = int8_model(network)
    (weight,) = [constant for constant in model.graph.initializer if constant.name.startswith("0.weight.")]
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    with pytest.raises(StorageError, match="gives other logits than the int8 network on"):
        check_int8(model.SerializeToString(), network, images)


def test_images_are_needed() -> None:
    with pytest.raises(UsageError, match="some hundreds of training images"):
        integer(ARCHITECTURES[0], count=0)


def test_a_pool_too_large_for_32_bits_is_an_average_of_its_own() -> None:
    network, images = integer("1x300x300: 4k1 G C", count=2)
    last = network.operations[-1]
    assert isinstance(last, IntClassifier)
    assert last.input_shape == (4, 1, 1)
    check_int8(int8_model(network).SerializeToString(), network, images)


@pytest.mark.parametrize("cap", RECORDS)
def test_a_record_in_int8_agrees_with_float(cap: int, mnist_dir, tmp_path) -> None:
    network, (images, _) = record(cap), mnist(mnist_dir, "train", 100)
    report = write_int8(tmp_path, network, images)
    held_out, labels = (part[100:] for part in mnist(mnist_dir, "train", 600))
    compared = compare_int8(network, report.network, held_out, labels)
    assert compared.agreement >= 99
    assert abs(compared.loss) <= 1
    check_int8((tmp_path / INT8_FILE).read_bytes(), report.network, held_out[:100])
    assert report.agreement >= 99
    assert [file.name for file in report.files] == ["model-int8.onnx", "model-int8-batch1.onnx"]
