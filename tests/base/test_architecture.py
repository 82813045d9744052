"""Words and counts of `Architecture`; what it refuses is in test_architecture_refusals.py."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from hypothesis import example, given
from strategies import architectures, convs

from nas.architecture import (
    KERNEL_SIZES,
    MAX_WIDTH,
    Architecture,
    Classifier,
    Conv,
    GlobalPool,
    InvertedBottleneck,
    MaxPool,
)

START = "8vr 9vr 10vr M 12vr 16vr 20vr C G"


def parse(text: str, **named) -> Architecture:
    return Architecture.parse(text, **named)


def test_the_starting_network_reads_as_the_familiar_summary():
    table = [(layer.name, [-1, *layer.output_shape], layer.num_params) for layer in parse(START).layers]
    assert table == [
        ("Conv2d-1", [-1, 8, 26, 26], 72),
        ("ReLU-2", [-1, 8, 26, 26], 0),
        ("BatchNorm2d-3", [-1, 8, 26, 26], 16),
        ("Conv2d-4", [-1, 9, 24, 24], 648),
        ("ReLU-5", [-1, 9, 24, 24], 0),
        ("BatchNorm2d-6", [-1, 9, 24, 24], 18),
        ("Conv2d-7", [-1, 10, 22, 22], 810),
        ("ReLU-8", [-1, 10, 22, 22], 0),
        ("BatchNorm2d-9", [-1, 10, 22, 22], 20),
        ("MaxPool2d-10", [-1, 10, 11, 11], 0),
        ("Conv2d-11", [-1, 12, 9, 9], 1080),
        ("ReLU-12", [-1, 12, 9, 9], 0),
        ("BatchNorm2d-13", [-1, 12, 9, 9], 24),
        ("Conv2d-14", [-1, 16, 7, 7], 1728),
        ("ReLU-15", [-1, 16, 7, 7], 0),
        ("BatchNorm2d-16", [-1, 16, 7, 7], 32),
        ("Conv2d-17", [-1, 20, 5, 5], 2880),
        ("ReLU-18", [-1, 20, 5, 5], 0),
        ("BatchNorm2d-19", [-1, 20, 5, 5], 40),
        ("Conv2d-20", [-1, 10, 5, 5], 200),
        ("AdaptiveAvgPool2d-21", [-1, 10, 1, 1], 0),
    ]


# Words


@given(architectures())
def test_text_and_json_give_the_architecture_back(architecture):
    assert parse(str(architecture)) == architecture
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    assert eval(repr(architecture), {"Architecture": Architecture.parse}) == architecture


@given(architectures())
def test_the_canonical_text_is_one_stable_line(architecture):
    text = str(architecture)
    assert str(parse(text)) == str(parse(f"\n {'   '.join(text.split())}\t")) == text
    assert text.isprintable()
    blocks = [str(block) for block in architecture.blocks]
    assert " ".join(blocks) in text or architecture.num_classes != 10


@given(architectures(), architectures())
def test_different_architectures_have_different_texts(one, other):
    assert (one == other) == (str(one) == str(other)) == (one.to_json() == other.to_json())


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("8k3/1 C10 G", "8 C G"),
        ("1x28x28: 8 C G", "8 C G"),
        ("8k03/02 G C100b", "8/2 G C100b"),
        ("3x32x32: 16 16+ M 32/2 G 24k1 C100", "3x32x32: 16 16+ M 32/2 G 24k1 C100"),
        ("s8k5/2vbr G Cb", "s8k5/2vbr G Cb"),
        ("G C", "G C"),
        ("i8x4k3/1 C G", "i8x4 C G"),
        ("8 i8x04k05/2v i8x3+ C10 G", "8 i8x4k5/2v i8x3+ C G"),
    ],
)
def test_another_spelling_has_the_same_canonical_text(text, canonical):
    assert str(parse(text)) == canonical


def test_every_mark_means_its_field():
    assert parse("s8k5/2vbr G C").blocks[0] == Conv(
        width=8, separable=True, kernel_size=5, stride=2, padded=False, bias=True, norm=True, relu_first=True
    )
    assert parse("8 8n+ G C").blocks[1] == Conv(width=8, norm=False, residual=True)
    assert parse("M G 4k1 Cb").blocks == (MaxPool(), GlobalPool(), Conv(width=4, kernel_size=1), Classifier(bias=True))


def test_an_inverted_bottleneck_expands_filters_and_projects():
    assert parse("4 i4x3k5+ G C").blocks[1] == InvertedBottleneck(width=4, expansion=3, kernel_size=5, residual=True)
    layers = parse("1x9x9: 4 i6x3k5/2v G C").layers[3:-2]
    assert [(layer.op, layer.groups, layer.output_shape, layer.num_params, layer.macs) for layer in layers] == [
        ("conv", 1, (12, 9, 9), 48, 48 * 81), ("norm", 1, (12, 9, 9), 24, 0), ("relu", 1, (12, 9, 9), 0, 0),
        ("conv", 12, (12, 3, 3), 300, 300 * 9), ("norm", 1, (12, 3, 3), 24, 0), ("relu", 1, (12, 3, 3), 0, 0),
        ("conv", 1, (6, 3, 3), 72, 72 * 9), ("norm", 1, (6, 3, 3), 12, 0),
    ]  # fmt: skip
    residual = parse("1x9x9: 4 i4x3+ G C").layers[-3]
    assert (residual.op, residual.skip) == ("add", 3)


def test_values_given_stand_in_where_the_text_names_none():
    architecture = parse("8 C G", input_shape=(3, 32, 32), num_classes=100)
    assert (architecture.input_shape, architecture.num_classes) == ((3, 32, 32), 100)
    assert str(architecture) == "3x32x32: 8 C100 G"
    assert parse("3x32x32: 8 C100 G", input_shape=(3, 32, 32), num_classes=100) == architecture
    assert parse("8 C G") == Architecture(blocks=(Conv(width=8), Classifier(), GlobalPool()))


def test_an_architecture_cannot_be_changed():
    architecture = parse("8 C G")
    for thing, name in ((architecture, "blocks"), (architecture.blocks[0], "width"), (architecture.layers[0], "macs")):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(thing, name, 1)
    assert len({architecture, parse("8 C G")}) == 1


# Counts


def test_huge_networks_are_counted_exactly():
    architecture = parse(f"9999x9999x9999: {MAX_WIDTH}k7 s{MAX_WIDTH}k7 C{MAX_WIDTH}b G")
    wide, area = MAX_WIDTH, 9999**2
    assert architecture.num_params == (
        wide * 9999 * 49 + 2 * wide + wide * 49 + wide * wide + 2 * wide + wide * wide + wide
    )
    assert architecture.macs == area * (wide * 9999 * 49 + wide * 49 + 2 * wide * wide)
    assert parse(str(architecture)) == Architecture.from_json(architecture.to_json()) == architecture


def test_a_long_text_is_read_in_a_blink():
    architecture = parse(" ".join(["1+"] * 5000 + ["C G"]))
    assert architecture.num_params == 5000 * (9 + 2) + 10
    assert architecture.peak_activations == (1 + 10) * 28 * 28  # the classifier's


@given(convs())
def test_a_block_counts_the_same_at_any_place(block):
    """Its parameters depend on the channels that come in alone, not on the map."""
    channels, area = 4, block.kernel_size**2
    body = channels * area + channels * block.width if block.separable else channels * block.width * area
    expected = body + block.width * block.bias + 2 * block.width * block.norm
    for side in (28, 33):
        layers = parse(f"{channels}x{side}x{side}: {block} G C").layers
        assert sum(layer.num_params for layer in layers[:-2]) == expected


def test_the_sum_of_all_outputs_is_what_training_stores():
    assert parse("1x8x8: 4 M G C").activations == 3 * (4 * 64) + 4 * 16 + 4 + 10


@pytest.mark.parametrize(
    ("text", "peak"),
    [
        ("1x8x8: 4 G C", 64 + 256),  # the convolution's input and output
        ("1x8x8: 4 16k1 G C", 256 + 1024),
        ("1x8x8: 4 s4+ G C", 3 * 256),  # the skip, and both sides of the 1x1
        ("1x8x8: 4 4+ 4 G C", 2 * 256),  # the input of a plain residual is the skip itself
        ("1x8x8: 4 s4+ s8 G C", 3 * 256),
        ("1x8x8: 64k1 G C", 64 + 4096),
        ("1x8x8: 4 i4x3 G C", 2 * 768),  # both sides of the depthwise convolution
        ("1x8x8: 4 i4x3+ G C", 256 + 2 * 768),  # and the skip
    ],
)
def test_the_peak_is_what_is_alive_at_once(text, peak):
    assert parse(text).peak_activations == peak


@given(architectures())
def test_the_peak_agrees_with_a_simulation_of_inference(architecture):
    """Buffers by name: a layer frees its input unless an add ahead waits for it; norm, ReLU and add write in place."""
    layers = architecture.layers
    sizes = [shape[0] * shape[1] * shape[2] for shape in (layer.input_shape for layer in layers)]
    peak = 0
    for index, layer in enumerate(layers):
        alive = {index}  # buffer i is what layer i reads
        alive |= {add.skip for at, add in enumerate(layers) if add.op == "add" and add.skip <= index <= at}
        total = sum(sizes[buffer] for buffer in alive)
        if layer.op in ("conv", "maxpool", "globalpool"):
            total += layer.output_shape[0] * layer.output_shape[1] * layer.output_shape[2]
        peak = max(peak, total)
    assert architecture.peak_activations == peak


@example(parse("8 s8 8k1 i8x2 M G 4k1 C"))
@given(architectures())
def test_depth_counts_the_blocks(architecture):
    words = str(architecture).split()
    blocks = [word for word in words if not word.endswith(":") and word[0] in "is123456789"]
    assert architecture.depth == len(blocks)


def test_the_language_has_the_kernels_it_says():
    assert KERNEL_SIZES == (1, 3, 5, 7)
    assert [parse(f"8k{kernel} G C").layers[0].padding for kernel in KERNEL_SIZES] == [0, 1, 2, 3]
