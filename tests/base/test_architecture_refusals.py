"""What `Architecture` refuses, as text and as JSON: always in one line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures

from nas.architecture import MAX_SIDE, MAX_WIDTH, Architecture
from nas.errors import UsageError


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


# Text


@pytest.mark.parametrize(
    ("text", "rule"),
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
        ("100000 C G", "a width is a whole number from 1 to 99,999, not 100000"),
        ("3x99999x99999: 8 C G", "each of input_shape is a whole number from 1 to 9,999, not 99999"),
        ("8 C100000 G", "num_classes is a whole number from 1 to 99,999, not 100000"),
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
        ("i8 C G", "unknown word 'i8'"),
        ("i8x C G", "unknown word 'i8x'"),
        ("i8x4b C G", "unknown word 'i8x4b'"),
        ("i8x4+v C G", "unknown word 'i8x4+v'"),
        ("i0x4 C G", "unknown word 'i0x4'"),
        ("si8x4 C G", "unknown word 'si8x4'"),
        ("i8x0 C G", "an expansion is a whole number from 1 to 9, not 0"),
        ("i8x10 C G", "an expansion is a whole number from 1 to 9, not 10"),
        ("i8x4k1 C G", "an inverted bottleneck has a kernel of 3 or more: write 8k1, not i8x4k1"),
        ("i8x4k2 C G", "kernel_size is one of (1, 3, 5, 7), not 2 in i8x4k2"),
        ("i8x4/3 C G", "a stride is one of (1, 2), not 3"),
        ("8 G i8x4 C", "after G the map is 1x1"),
        ("8 i16x4+ C G", "a residual needs equal shapes: 'i16x4+' makes (16, 28, 28) of (8, 28, 28)"),
        ("8 i8x4v+ C G", "a residual needs equal shapes"),
        ("1x4x4: i8x2k7v C G", "the map shrinks to nothing: 'i8x2k7v' meets 4x4"),
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
def test_a_text_that_breaks_a_rule_is_refused(text, rule):
    assert rule in refusal(text)


def test_a_text_at_odds_with_the_data_set_is_refused():
    assert "'3x32x32:' is at odds with the input (1, 28, 28)" in refusal("3x32x32: 8 C G", input_shape=(1, 28, 28))
    assert "'C100' is at odds with the 10 classes" in refusal("8 C100 G", num_classes=10)
    assert "num_classes is a whole number from 1" in refusal("8 C G", num_classes=0)
    assert "input_shape is (C, H, W)" in refusal("8 C G", input_shape=())
    assert "each of input_shape" in refusal("8 C G", input_shape=(1, 0, 28))


LETTERS = "0123456789iskvbnr+/MGCx:٣ \t\n"


@settings(max_examples=150)
@given(st.text(LETTERS, max_size=30) | st.text(max_size=20) | st.lists(st.sampled_from(
    ["8", "s8", "8v", "8+", "8/2", "8k1", "8k7v", "i8x2k5+", "M", "G", "C", "Cb", "C100", "3x32x32:", "1x4x9:"]
)).map(" ".join))  # fmt: skip
def test_the_parser_raises_nothing_but_usage_errors(text):
    try:
        architecture = parse(text)
    except UsageError as error:
        one_line(error)
    else:
        assert parse(str(architecture)) == architecture
        assert architecture.num_params > 0


# JSON


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
    [{"expansion": 0}, {"expansion": 4.0}, {"expansion": "4"}, {"expansion": None}, {"expansion": True}, {"width": 0},
     {"kernel_size": 1}, {"stride": 3}, {"padded": 1}, {"residual": None}, {"bias": False}, {"separable": True}],
    ids=repr,
)  # fmt: skip
def test_an_inverted_bottleneck_of_wrong_values_is_refused_in_json(broken):
    fields = json.loads(parse("i8x4 C G").to_json())
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
    text = parse("8 i8x2 M C G").to_json()
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
