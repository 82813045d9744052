"""ONNX: the graph is the network, says which images it takes, and is plain enough for small code generators."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exports import ODD, PLAIN, images, network, one_line, trained, tree
from hypothesis import given, settings
from strategies import architectures
from torch import nn

from nas import export
from nas.architecture import Architecture
from nas.errors import StorageError
from nas.export.tolerance import tolerance_of
from nas.model import TrainedNetwork

GRAPHS = {"model.onnx": {}, "model-raw.onnx": {"raw": True}, "model-batch1.onnx": {"batch": 1}}
DEFAULTS = {
    "Conv": {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"},
    "MaxPool": {
        "strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1], "ceil_mode": 0, "storage_order": 0,
        "auto_pad": b"NOTSET",
    },
    "BatchNormalization": {"epsilon": pytest.approx(1e-5), "momentum": pytest.approx(0.9), "training_mode": 0},
    "Flatten": {"axis": 1},
}  # fmt: skip
"""What an attribute is in operator set 13 if it is left out."""


def stated(proto: onnx.ModelProto) -> dict[str, str]:
    return {item.key: item.value for item in proto.metadata_props}


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [part.dim_param or part.dim_value for part in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_is_the_typical_seeds_network_at_any_batch_size(run, name):
    for count in (1, 3, 1001):
        assert export.check_onnx(run / name, network(PLAIN, 8), images(PLAIN, count)) < 1e-5
        assert export.check_onnx(run / name, network(PLAIN, 8), images(PLAIN, count) / 255, 1e-4) < 1e-5


def test_the_graph_takes_images_as_files_give_them(run):
    """By onnxruntime alone, with what a user feeds: the raw graph on 0..1 is another network."""
    batch, made = images(PLAIN, 30), network(PLAIN, 8)
    with torch.no_grad():
        wanted = made.module()((batch / 255 - 0.13) / 0.31)

    def off(name, given):
        """The largest difference of a logit."""
        session = onnxruntime.InferenceSession(run / name, providers=["CPUExecutionProvider"])
        assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
        logits = torch.from_numpy(session.run(None, {"images": given})[0])
        return float((logits - wanted[: len(given)]).abs().max())

    unit = (batch / 255).numpy()
    assert off("model.onnx", unit) < 1e-4
    assert off("model-raw.onnx", made.normalization.apply(batch).numpy()) < 1e-4
    assert off("model-raw.onnx", unit) > 0.01
    assert off("model-batch1.onnx", unit[:1]) < 1e-4
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        off("model-batch1.onnx", unit)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_graph_is_one_file_that_says_what_it_takes_and_names_no_machine(run, name):
    proto = onnx.load(run / name, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)
    raw = "normalised before: (0..1 less mean) / std"
    assert stated(proto) == {
        "input_scaling": raw if name == "model-raw.onnx" else "0..1, normalised inside",
        "schedule": str(PLAIN),
        "num_params": str(PLAIN.num_params),
        "mean": "[0.13]",
        "std": "[0.31]",
        "classes": json.dumps(list("0123456789")),
        "opset": "13",
    }
    assert [(each.domain, each.version) for each in proto.opset_import] == [("", 13)]
    batch = 1 if name == "model-batch1.onnx" else "batch"
    assert [(each.name, shape_of(each)) for each in proto.graph.input] == [("images", [batch, 1, 28, 28])]
    assert [(each.name, shape_of(each)) for each in proto.graph.output] == [("logits", [batch, 10])]
    content = (run / name).read_bytes()
    for path in (str(Path(torch.__file__).parent), str(Path(__file__).parent.parent), 'File "'):
        assert path.encode() not in content


@settings(max_examples=20)
@given(architectures())
def test_any_network_is_its_graph_of_plain_operators(tmp_path_factory, architecture):
    folder, made = tmp_path_factory.getbasetemp() / "graphs", network(architecture)
    folder.mkdir(exist_ok=True)
    for name, options in GRAPHS.items():
        export.export_onnx(folder / name, made, **options)
        # Relative to the logits, which random norms make as large as 1e4.
        with torch.no_grad():
            scale = float(made.module()(made.normalization.apply(images(architecture, 6))).abs().max())
        export.check_onnx(folder / name, made, images(architecture, 6), 1e-5 * max(1.0, scale))
        proto = onnx.load(folder / name)
        norms = [layer for layer in architecture.layers if layer.op == "norm"]
        nodes = list(proto.graph.node)
        plain = {"Conv", "Relu", "MaxPool", "GlobalAveragePool", "Add", "Flatten", "BatchNormalization"}
        assert {node.op_type for node in nodes} <= plain | (set() if "raw" in options else {"Sub", "Div"})
        assert [node.op_type for node in nodes].count("GlobalAveragePool") == 1
        assert nodes[-1].op_type == "Flatten"
        relu_first = sum(architecture.layers[architecture.layers.index(layer) - 1].op == "relu" for layer in norms)
        assert [node.op_type for node in nodes].count("BatchNormalization") == relu_first
        for node in nodes:
            for attribute in node.attribute:
                value = onnx.helper.get_attribute_value(attribute)
                assert value != DEFAULTS.get(node.op_type, {}).get(attribute.name), (node.op_type, attribute.name)
            if node.op_type in ("Conv", "MaxPool"):
                assert "kernel_shape" in {attribute.name for attribute in node.attribute}
        # Every tensor has its shape, and it is the one that onnx infers.
        known = {each.name: shape_of(each) for each in (*proto.graph.value_info, *proto.graph.output)}
        assert known.keys() == {node.output[0] for node in nodes}
        del proto.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
        assert {each.name: shape_of(each) for each in (*inferred.graph.value_info, *inferred.graph.output)} == known
        assert all(name.isidentifier() for name in known)


def test_a_norm_is_folded_into_its_convolution(tmp_path):
    """Against the numbers by hand: with a bias, without one, and after a ReLU not at all."""
    architecture = Architecture.parse("1x8x8: 3b 4 5r G C")
    made = network(architecture)
    export.export_onnx(tmp_path / "model.onnx", made)
    weights = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
    }
    state = {name: tensor.double().numpy() for name, tensor in made.state_dict.items()}
    for conv, norm, name in (("0", "1", "conv1"), ("3", "4", "conv4")):
        scale = state[f"{norm}.weight"] / np.sqrt(state[f"{norm}.running_var"] + 1e-5)
        bias = state.get(f"{conv}.bias", 0) - state[f"{norm}.running_mean"]
        assert weights[f"{name}_weight"] == pytest.approx(
            state[f"{conv}.weight"] * scale[:, None, None, None], rel=1e-6
        )
        assert weights[f"{name}_bias"] == pytest.approx(state[f"{norm}.bias"] + bias * scale, rel=1e-5)
    assert weights["conv7_weight"].tolist() == made.state_dict["6.weight"].tolist()
    assert "conv7_bias" not in weights
    assert weights["norm9_var"].tolist() == made.state_dict["8.running_var"].tolist()


def test_the_odd_network_exports_to_the_same_bytes_without_a_word(tmp_path, capfd, recwarn):
    made = network(ODD)
    export.export_onnx(tmp_path / "one.onnx", made)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert export.check_onnx(tmp_path / "one.onnx", made, images(ODD, 64)) < 1e-5
    export.export_onnx(tmp_path / "two.onnx", made)
    assert tree(tmp_path)["one.onnx"] == tree(tmp_path)["two.onnx"]
    assert set(tree(tmp_path)) == {"one.onnx", "two.onnx"}


# The check


def test_a_graph_of_other_weights_is_refused(run):
    with pytest.raises(StorageError) as error:
        export.check_onnx(run / "model.onnx", network(PLAIN, 7), images(PLAIN, 10))
    one_line(error, str(run / "model.onnx"), "over the tolerance 0.0001")
    nan = trained(PLAIN, 8)
    nn.init.constant_(nan[0].weight, float("nan"))
    with pytest.raises(StorageError, match="differs by nan"):
        export.check_onnx(run / "model.onnx", network(state_dict=nan.state_dict()), images(PLAIN, 10))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schedule": "8 G C"}, "its schedule is 8 G C, not"),
        ({"mean": "[0.0]"}, r"its mean is \[0.0\], not \[0.13\]"),
        ({"classes": None}, "its classes is None, not"),
        ({"input_scaling": None}, "does not say which images it takes"),
        ({"input_scaling": "normalised before: (0..1 less mean) / std"}, "a logit differs by"),
    ],
)
def test_a_graph_that_states_another_network_or_input_is_refused(run, tmp_path, change, problem):
    proto = onnx.load(run / "model.onnx")
    fields = {name: value for name, value in (stated(proto) | change).items() if value is not None}
    onnx.helper.set_model_props(proto, fields)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(StorageError, match=problem):
        export.check_onnx(tmp_path / "model.onnx", network(PLAIN, 8), images(PLAIN, 10))


class Changed(TrainedNetwork):
    """A network whose logits have something added."""

    def module(self) -> nn.Module:
        model, more = super().module(), self.more

        class Off(nn.Module):
            def forward(self, x):
                return model(x) + more(x)

        return Off().eval()


def changed(more) -> Changed:
    made = network(PLAIN, 8)
    found = Changed(
        **{name: getattr(made, name) for name in ("architecture", "state_dict", "normalization", "classes")}
    )
    object.__setattr__(found, "more", more)
    return found


def test_the_last_image_counts_as_the_first(run):
    """The check covers the whole set: an image that differs in the last, short chunk is found."""
    batch = images(PLAIN, 1001)
    last = network().normalization.apply(batch[-1:])
    off = changed(lambda x: 0.01 * (x == last).flatten(1).all(1, keepdim=True))
    for name in GRAPHS:
        assert export.check_onnx(run / name, off, batch[:-1]) < 1e-5
        with pytest.raises(StorageError):
            export.check_onnx(run / name, off, batch)


def test_a_prediction_that_differs_beyond_the_tolerance_is_refused(run):
    """Logits that all differ by less than the tolerance can still turn over a margin of up to twice the tolerance."""
    batch, made = images(PLAIN, 1), network(PLAIN, 8)
    with torch.no_grad():
        top = made.module()(made.normalization.apply(batch)).topk(2)
    (first, second), (_, runner_up) = (part[0].tolist() for part in top)
    tolerance = 1.2 * (first - second)
    shift = torch.full((10,), -0.95 * tolerance)
    shift[runner_up] = 0.95 * tolerance
    with pytest.raises(StorageError, match="1 of 1 predictions"):
        export.check_onnx(run / "model.onnx", changed(lambda _: shift), batch, tolerance)


@pytest.mark.parametrize("content", [b"", b"not a graph", None])
def test_a_damaged_graph_is_refused(run, tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError) as error:
        export.check_onnx(path, network(PLAIN, 8), images(PLAIN, 1))
    one_line(error, str(path), "export again")


@pytest.mark.parametrize(("largest", "tolerance"), [(0.1, 1e-4), (10, 1e-4), (-340, 3.4e-3)])
def test_the_tolerance_is_a_ten_thousandth_and_more_for_large_logits(largest, tolerance):
    assert tolerance_of(torch.tensor([[largest, 0.05]])) == pytest.approx(tolerance)


def test_logits_that_are_large_together_round_more(tmp_path):
    """A softmax leaves what they have in common open, so that it may grow in training."""
    module = trained(PLAIN, 3)
    with torch.no_grad():
        classifier = [each for each in module if isinstance(each, nn.Conv2d)][-1]
        classifier.weight.add_(300.0)
    made = network(PLAIN, state_dict=module.state_dict())
    export.export_onnx(tmp_path / "model.onnx", made)
    assert export.check_onnx(tmp_path / "model.onnx", made, images(PLAIN, 300)) > 1e-4
