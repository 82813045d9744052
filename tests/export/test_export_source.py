"""`model.py`: the network as text that needs torch alone, and takes images as they are."""

from __future__ import annotations

import ast
import builtins
import importlib
import os
import re
import subprocess
import sys

import pytest
import torch
from exports import ODD, PLAIN, images, network, one_line, trained, tree, write_winner
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import architectures
from torch import nn

from nas import export
from nas.architecture import Architecture
from nas.data import Normalization
from nas.errors import StorageError, UsageError
from nas.export import source
from nas.model import build

EVERYTHING = "3x20x17: 6k7 s8k5/2vbr 8k1 8r+ s8n+ M 12k3b 12k1/2 G 7k1bn 7k1b+ C5b"
SHRUNK = "2x3x3: 4v 4+ s5/2 5k1+ G 5k1/2+ Cb"


def run_source(text: str) -> dict:
    """The names of the text, where every import but torch fails."""

    def only_torch(name: str, *args: object) -> object:
        assert name.split(".")[0] == "torch", name
        return builtins.__import__(name, *args)  # type: ignore[arg-type]

    namespace: dict = {"__builtins__": {**vars(builtins), "__import__": only_torch}, "__name__": "model"}
    exec(text, namespace)
    return namespace


def source_of(architecture: Architecture) -> str:
    made = network(architecture)
    return source(architecture, made.normalization, made.classes)


@example(Architecture.parse(EVERYTHING))
@example(Architecture.parse(SHRUNK))
@given(architectures())
def test_the_source_text_is_the_same_network(architecture):
    text = source_of(architecture)
    model, rebuilt = build(architecture), run_source(text)["build"]()
    assert repr(model) == repr(rebuilt)
    rebuilt.load_state_dict(model.state_dict())
    batch = torch.randn(2, *architecture.input_shape)
    with torch.no_grad():
        assert torch.equal(model.eval()(batch), rebuilt.eval()(batch))
    assert str(architecture) in (ast.get_docstring(ast.parse(text)) or "")


def test_the_source_text_reads_well():
    assert (
        source(Architecture.parse("4 4+ G C"), Normalization((0.125,), (0.25,)), tuple("0123456789"))
        == '''"""4 4+ G C

236 parameters. `Net` takes images (N, 1, 28, 28), uint8 or floats on 0..1, and normalises them itself; `build()`
is the same network for images that are normalised already. Both give logits (N, 10).

    net = load()
    labels = [net.classes[index] for index in net(images).argmax(1)]
"""

import torch
from torch import nn


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def build():
    """The network alone: images less `Net.mean`, over `Net.std`, to logits. weights.safetensors is its state dict."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=1, padding=1, groups=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        Residual(
            nn.Conv2d(4, 4, 3, stride=1, padding=1, groups=1, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(4, 10, 1, stride=1, padding=0, groups=1, bias=False),
        nn.Flatten(),
    )


class Net(nn.Module):
    """The network for images as they are: uint8, or floats on 0..1. Mean and deviation are buffers, no parameters."""

    classes = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.125]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([0.25]).view(1, -1, 1, 1))
        self.network = build()

    def forward(self, images):
        checked = not torch.compiler.is_compiling()  # a graph has no exceptions
        if checked and images.shape[1:] != (1, 28, 28):
            raise ValueError(f"images are (N, 1, 28, 28), not {tuple(images.shape)}: give a batch of that size")
        if images.dtype == torch.uint8:
            images = images / 255
        elif not images.is_floating_point():
            raise TypeError(f"images are uint8, or floats on 0..1, not {images.dtype}: give 0 to 255 as uint8")
        elif checked and images.numel():
            low, high = (float(end) for end in images.aminmax())
            if not (low > -0.001 and high < 1.001):  # resizing may have rounded
                raise ValueError(f"floats are on 0..1, not {low:g} to {high:g}: divide levels of 0 to 255 by 255")
        return self.network((images.to(self.mean.dtype) - self.mean) / self.std)


def load(path=None):
    """A `Net` in evaluation mode, with weights.safetensors beside this file, or another (pip install safetensors).

    A state dict that `torch.save` wrote goes in as `Net().network.load_state_dict(torch.load(path))`.
    """
    from pathlib import Path

    from safetensors.torch import load_file

    net = Net()
    net.network.load_state_dict(load_file(path or Path(__file__).with_name("weights.safetensors")))
    return net.eval()
'''
    )
    assert "Residual" not in source_of(Architecture.parse("4 G C"))


@given(st.lists(st.text(), min_size=1, max_size=60))
def test_any_names_of_classes_are_text_in_the_source(names):
    architecture = Architecture.parse("2 G C", num_classes=len(names))
    text = source(architecture, Normalization((0.1,), (0.3,)), tuple(names))
    assert run_source(text)["Net"].classes == tuple(names)
    text.encode()  # a lone surrogate, as in the name of a folder, is written as an escape


@pytest.mark.parametrize("architecture", [PLAIN, ODD], ids=str)
def test_model_py_needs_torch_alone_and_is_the_network(tmp_path, architecture):
    write_winner(tmp_path / "best", architecture)
    text = (tmp_path / "best" / "model.py").read_text()
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [getattr(node, "module", node.names[0].name) for node in imports] == ["torch", "torch"]
    model = run_source(text)["build"]()
    model.load_state_dict(export.read_winner(tmp_path / "best").network.state_dict)
    batch = torch.randn(5, *architecture.input_shape)
    assert torch.equal(model.eval()(batch), trained(architecture)(batch))


@pytest.mark.parametrize("architecture", [PLAIN, ODD], ids=str)
def test_a_net_takes_images_as_they_are(tmp_path, architecture):
    """With `from model import Net`, run from another folder, as the users of the file do."""
    write_winner(tmp_path / "best", architecture)
    made, batch = network(architecture), images(architecture, 20)
    with torch.no_grad():
        wanted = made.module()(made.normalization.apply(batch))
    torch.save(batch, tmp_path / "images.pt")
    code = """
import torch
from model import Net, build, load
images = torch.load("images.pt")
net = load()
assert isinstance(load("best/weights.safetensors"), Net)
assert isinstance(net, Net) and not net.training
print(sum(p.numel() for p in net.parameters()), [name for name, _ in net.named_buffers() if "." not in name])
with torch.no_grad():
    torch.save([net(images), net(images / 255)], "logits.pt")
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "best")},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == f"{architecture.num_params} ['mean', 'std']"
    for logits in torch.load(tmp_path / "logits.pt"):
        assert torch.allclose(logits, wanted, atol=1e-5)
        assert torch.equal(logits.argmax(1), wanted.argmax(1))


LEVELS = torch.arange(2 * 784).view(2, 1, 28, 28) % 256


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.bool])
def test_a_net_refuses_integers_but_bytes(kind):
    with pytest.raises(TypeError, match=f"uint8, or floats on 0..1, not {kind}: give 0 to 255 as uint8"):
        run_source(source_of(PLAIN))["Net"]()(LEVELS.to(kind))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (LEVELS.float(), "not 0 to 255: divide levels of 0 to 255 by 255"),
        (LEVELS.double() / 127.5 - 1, "not -1 to 1"),
        (LEVELS.half(), "not 0 to 255"),
        (torch.full((1, 1, 28, 28), float("nan")), "not nan to nan"),
    ],
)
def test_a_net_refuses_floats_beyond_1(images, words):
    net = run_source(source_of(PLAIN))["Net"]()
    with pytest.raises(ValueError, match=f"floats are on 0..1, {words}"):
        net(images)
    with pytest.raises(UsageError, match=f"floating-point images are on 0..1, {words}"):
        network(PLAIN).predict(images)


@pytest.mark.parametrize(
    "shape",
    [(1, 28, 28), (28, 28), (784,), (2, 1, 27, 28), (2, 3, 28, 28), (2, 784), (2, 28, 28, 1), (1, 2, 1, 28, 28)],
)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_a_net_refuses_other_shapes(shape, kind):
    with pytest.raises(ValueError, match=re.escape(f"images are (N, 1, 28, 28), not {shape}: give a batch")):
        run_source(source_of(PLAIN))["Net"]()(torch.zeros(shape, dtype=kind))


def test_a_net_takes_no_images_rounded_ones_and_becomes_a_graph():
    net = run_source(source_of(PLAIN))["Net"]().eval()
    assert net(torch.zeros(0, 1, 28, 28)).shape == (0, 10)
    images = LEVELS / 255
    program = torch.export.export(net, (images,)).module()
    torch.testing.assert_close(program(images), net(images * (1 + 1e-6)), atol=1e-3, rtol=0)


def test_a_model_py_that_is_another_network_is_refused(best, monkeypatch):
    before, folder = tree(best.parent), importlib.import_module("nas.export.folder")

    def refused(*parts):
        with pytest.raises(StorageError) as error:
            write_winner(best)
        one_line(error, "model.py", *parts)

    for change, problem in (
        (("ReLU", "ELU"), "does not give the logits of the one trained"),
        (("- self.mean", "+ self.mean"), "on images as they are"),
        (("images / 255", "images / 256"), "on images as they are"),
        (
            ("        self.network = build()", "        self.network = build()\n        self.more = nn.Linear(1, 1)"),
            "parameters",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(folder, "source", lambda *args, change=change: source(*args).replace(*change))
            refused(problem)
    with monkeypatch.context() as patch:
        patch.setattr(Architecture, "num_params", property(lambda _: 7))
        refused("parameters, not 7")
    assert tree(best.parent) == before


def test_writing_the_source_uses_up_no_random_numbers(tmp_path):
    before = torch.get_rng_state()
    write_winner(tmp_path / "best")
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(run_source((tmp_path / "best" / "model.py").read_text())["Net"](), nn.Module)
