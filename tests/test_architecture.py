"""Counts, words and refusals of `Architecture`; what torch makes of them is in test_model.py."""

from __future__ import annotations

import dataclasses
import json
import pickle

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from strategies import architectures, convs

from nas.architecture import (
    KERNEL_SIZES,
    KNOWN,
    MAX_SIDE,
    MAX_WIDTH,
    Architecture,
    Classifier,
    Conv,
    GlobalPool,
    MaxPool,
)
from nas.errors import UsageError

START = "8vr 9vr 10vr M 12vr 16vr 20vr C G"


def parse(text: str, **named) -> Architecture:
    return Architecture.parse(text, **named)


def refusal(text: str, **named) -> str:
    """The one line with which a text is refused."""
    with pytest.raises(UsageError) as caught:
        parse(text, **named)
    return one_line(caught.value)


def one_line(error: UsageError) -> str:
    assert len(str(error).splitlines()) == 1
    assert str(error).isprintable()
    return str(error)


# The catalogue


@pytest.mark.parametrize("design", KNOWN, ids=lambda design: design.name)
def test_a_known_design_has_the_count_its_author_states(design):
    architecture = parse(design.text)
    assert architecture.num_params == design.num_params
    assert design.name.endswith(f"-{design.num_params}")
    assert str(architecture) == design.text


def test_the_catalogue_holds_each_design_once():
    assert len({design.name for design in KNOWN}) == len({design.text for design in KNOWN}) == len(KNOWN)


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


def test_values_given_stand_in_where_the_text_names_none():
    architecture = parse("8 C G", input_shape=(3, 32, 32), num_classes=100)
    assert (architecture.input_shape, architecture.num_classes) == ((3, 32, 32), 100)
    assert str(architecture) == "3x32x32: 8 C100 G"
    assert parse("3x32x32: 8 C100 G", input_shape=(3, 32, 32), num_classes=100) == architecture
    assert parse("8 C G") == Architecture(blocks=(Conv(width=8), Classifier(), GlobalPool()))


# Refusals


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "end it with 'C G' or 'G C'"),
        ("8 16", "end it with 'C G' or 'G C'"),
        ("8 C", "end it with"),
        ("8 G", "end it with"),
        ("8 C C G", "one classifier C"),
        ("8 G G C", "one global pool G"),
        ("8 C G G", "one global pool G"),
        ("8 C G C", "one classifier C"),
        ("8 C G 8k1", "not with '8k1'"),
        ("8 C G M", "not with 'M'"),
        ("8 C 8 G", "only G follows"),
        ("8 C M G", "only G follows"),
        ("8 G C 8k1", "not with '8k1'"),
        ("8 G M C", "after G the map is 1x1"),
        ("8 G 8 C", "after G the map is 1x1"),
        ("8 G s8 C", "after G the map is 1x1"),
        ("8 X C G", "unknown word 'X'"),
        ("8 -8 C G", "unknown word '-8'"),
        ("8.5 C G", "unknown word '8.5'"),
        ("0 C G", "unknown word '0'"),
        ("08 C G", "unknown word '08'"),
        ("8rv C G", "unknown word '8rv'"),
        ("8 c g", "unknown word 'c'"),
        ("8, C, G", "unknown word '8,'"),
        ("٨ C G", "unknown word '٨'"),
        ("8k٣ C G", "unknown word '8k٣'"),
        ("8 C٣ G", "unknown word 'C٣'"),
        ("8\x00 C G", r"unknown word '8\x00'"),
        ("8\x1b[31m C G", r"unknown word '8\x1b[31m'"),
        ("\ud800 C G", r"unknown word '\ud800'"),
        ("100000 C G", "unknown word '100000'"),
        (f"8k{'9' * 5000} C G", "unknown word"),
        (f"{'9' * 5000} C G", "unknown word"),
        ("8 1x28x28: C G", "unknown word '1x28x28:'"),
        ("0x28x28: 8 C G", "unknown word '0x28x28:'"),
        ("1x28: 8 C G", "unknown word '1x28:'"),
        ("8 C0 G", "unknown word 'C0'"),
        ("8k2 C G", "kernel_size is one of (1, 3, 5, 7), not 2"),
        ("8k9 C G", "kernel_size is one of (1, 3, 5, 7), not 9"),
        ("8k0 C G", "a kernel_size is a whole number from 1"),
        ("8/3 C G", "a stride is one of (1, 2), not 3"),
        ("8/0 C G", "a stride is a whole number from 1"),
        ("s8k1 C G", "write 8k1"),
        ("8nr C G", "drop one of them"),
        ("8k1v C G", "drop the 'v'"),
        ("8 16+ C G", "a residual needs equal shapes: '16+' makes (16, 28, 28) of (8, 28, 28)"),
        ("8 8v+ C G", "a residual needs equal shapes"),
        ("8 8/2+ C G", "a residual needs equal shapes"),
        ("8+ C G", "a residual needs equal shapes"),
        ("1x2x2: 8v C G", "the map shrinks to nothing: '8v' meets 2x2"),
        ("1x9x2: 8v C G", "the map shrinks to nothing: '8v' meets 9x2"),
        ("1x3x3: 8k7v C G", "the map shrinks to nothing"),
        ("M M M M M C G", "the map shrinks to nothing: 'M' meets 1x1"),
        ("1x1x2: M C G", "the map shrinks to nothing: 'M' meets 1x2"),
    ],
)
def test_a_text_that_breaks_a_rule_is_refused(text, said):
    assert said in refusal(text)


def test_a_text_at_odds_with_the_data_set_is_refused():
    assert "'3x32x32:' is at odds with the input (1, 28, 28)" in refusal("3x32x32: 8 C G", input_shape=(1, 28, 28))
    assert "'C100' is at odds with the 10 classes" in refusal("8 C100 G", num_classes=10)
    assert "num_classes is a whole number from 1" in refusal("8 C G", num_classes=0)
    assert "input_shape is (C, H, W)" in refusal("8 C G", input_shape=())
    assert "each of input_shape" in refusal("8 C G", input_shape=(1, 0, 28))


LETTERS = "0123456789skvbnr+/MGCx:٣ \t\n"


@settings(max_examples=150)
@given(st.text(LETTERS, max_size=30) | st.text(max_size=20) | st.lists(st.sampled_from(
    ["8", "s8", "8v", "8+", "8/2", "8k1", "8k7v", "M", "G", "C", "Cb", "C100", "3x32x32:", "1x4x9:"]
)).map(" ".join))  # fmt: skip
def test_the_parser_raises_nothing_but_usage_errors(text):
    try:
        architecture = parse(text)
    except UsageError as error:
        one_line(error)
    else:
        assert parse(str(architecture)) == architecture
        assert architecture.num_params > 0


@pytest.mark.parametrize(
    "broken",
    [
        {"width": 0}, {"width": -8}, {"width": "8"}, {"width": 8.0}, {"width": 8.5}, {"width": True}, {"width": None},
        {"width": MAX_WIDTH + 1}, {"width": [8]}, {"kernel_size": 3.0}, {"kernel_size": "3"}, {"kernel_size": True},
        {"kernel_size": None}, {"kernel_size": [3]}, {"stride": 1.0}, {"stride": True}, {"stride": {}},
        {"padded": 1}, {"bias": "false"}, {"norm": None}, {"separable": 0}, {"relu_first": []}, {"residual": 1.0},
        {"kind": "Conv"}, {"kind": None}, {"kind": []}, {"kind": {}}, {"kind": "conv2d"}, {"kind": "maxpool"},
        {"kind": "classifier"}, {"dilation": 1}, {"a\nb": 1}, {"\ud800": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_a_block_of_wrong_values_is_refused_in_json(broken):
    fields = json.loads(parse("8 C G").to_json())
    fields["blocks"][0] |= broken
    with pytest.raises(UsageError) as caught:
        Architecture.from_json(json.dumps(fields))
    one_line(caught.value)


@pytest.mark.parametrize(
    "broken",
    [
        {"num_classes": "10"}, {"num_classes": 10.0}, {"num_classes": True}, {"num_classes": 0}, {"num_classes": None},
        {"num_classes": MAX_WIDTH + 1}, {"num_classes": 10**400},
        {"input_shape": [1, 28]}, {"input_shape": [1, 28, 28, 1]}, {"input_shape": "abc"}, {"input_shape": 28},
        {"input_shape": {"1": 1, "2": 2, "3": 3}}, {"input_shape": [1, 28, 28.0]}, {"input_shape": [1, "28", 28]},
        {"input_shape": [0, 28, 28]}, {"input_shape": [1, 28, -28]}, {"input_shape": [True, 28, 28]},
        {"input_shape": [1, 28, MAX_SIDE + 1]}, {"input_shape": None}, {"input_shape": [[1], 28, 28]},
        {"blocks": None}, {"blocks": {}}, {"blocks": "CG"}, {"blocks": []}, {"blocks": [[]]}, {"blocks": ["C", "G"]},
        {"blocks": [None]}, {"blocks": 3}, {"name": "x"}, {"a\nb": 1},
    ],
    ids=lambda broken: repr(broken)[:40],
)  # fmt: skip
def test_wrong_values_are_refused_in_json(broken):
    fields = json.loads(parse("8 C G").to_json()) | broken
    with pytest.raises(UsageError) as caught:
        Architecture.from_json(json.dumps(fields))
    one_line(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "8 C G", "[]", "null", "1", '"8 C G"', "{}", "[[", "{", "NaN", "[" * 100_000, '{"a":' * 100_000, "9" * 5000,
     "\x00", '{"blocks": [], "num_classes": 10}', "\ufeff{}"],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_what_is_no_json_of_an_architecture_is_refused(text):
    with pytest.raises(UsageError) as caught:
        Architecture.from_json(text)
    one_line(caught.value)


def test_no_key_of_the_json_may_be_missing():
    text = parse("8 M C G").to_json()
    for key in json.loads(text):
        fields = json.loads(text)
        del fields[key]
        with pytest.raises(UsageError, match=key):
            Architecture.from_json(json.dumps(fields))
    for index, block in enumerate(json.loads(text)["blocks"]):
        for key in block:
            fields = json.loads(text)
            del fields["blocks"][index][key]
            with pytest.raises(UsageError, match=key):
                Architecture.from_json(json.dumps(fields))


SCALARS = st.none() | st.booleans() | st.integers(-2, 40) | st.floats() | st.text(max_size=4)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3))


@settings(max_examples=100)
@given(architectures(), st.data())
def test_a_json_with_one_value_changed_is_refused_or_means_what_it_says(architecture, data):
    fields = json.loads(architecture.to_json())
    where = data.draw(st.sampled_from([fields, *fields["blocks"]]))
    key = data.draw(st.sampled_from(sorted(where)) | st.text(max_size=5))
    where[key] = data.draw(JSON)
    try:
        changed = Architecture.from_json(json.dumps(fields))
    except UsageError as error:
        one_line(error)
    else:
        assert json.dumps(json.loads(changed.to_json()), sort_keys=True) == json.dumps(fields, sort_keys=True)


@given(st.text(max_size=40) | JSON.map(json.dumps))
def test_the_json_reader_raises_nothing_but_usage_errors(text):
    with pytest.raises(UsageError) as caught:
        Architecture.from_json(text)
    one_line(caught.value)


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


def test_the_sum_of_all_outputs_is_what_training_keeps():
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


@example(parse("8 s8 8k1 M G 4k1 C"))
@given(architectures())
def test_depth_counts_the_blocks(architecture):
    words = str(architecture).split()
    blocks = [word for word in words if not word.endswith(":") and word[0] in "s123456789"]
    assert architecture.depth == len(blocks)


def test_the_language_has_the_kernels_it_says():
    assert KERNEL_SIZES == (1, 3, 5, 7)
    assert [parse(f"8k{kernel} G C").layers[0].padding for kernel in KERNEL_SIZES] == [0, 1, 2, 3]
