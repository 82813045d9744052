"""The text form of an architecture and its JSON: writing and reading. Both are read strictly."""

from __future__ import annotations

import dataclasses
import json
import re
import reprlib
from collections.abc import Sequence
from typing import Any

from nas.architecture.blocks import Block, Classifier, Conv, GlobalPool, InvertedBottleneck, MaxPool
from nas.architecture.layers import Shape
from nas.errors import UsageError

DEFAULT_SHAPE: Shape = (1, 28, 28)
DEFAULT_CLASSES = 10
"""The text form names others only."""

Description = tuple[tuple[Block, ...], Shape, int]
"""Blocks, input shape, number of classes: not yet known to make a network."""

# [0-9] and not \d, which also takes the digits of other scripts. What is too large a number is for the blocks to tell.
_GEOMETRY = r"(?:k([0-9]{1,18}))?(?:/([0-9]{1,18}))?(v?)"
_CONV = re.compile(rf"(s?)([1-9][0-9]{{0,17}}){_GEOMETRY}(b?)(n?)(r?)(\+?)")
_INVERTED = re.compile(rf"i([1-9][0-9]{{0,17}})x([0-9]{{1,18}}){_GEOMETRY}(\+?)")
_CLASSIFIER = re.compile(r"C([1-9][0-9]{0,17})?(b?)")
_INPUT = re.compile(r"([1-9][0-9]{0,17})x([1-9][0-9]{0,17})x([1-9][0-9]{0,17}):")

_KINDS: dict[str, type[Block]] = {
    "conv": Conv, "inverted": InvertedBottleneck, "maxpool": MaxPool, "globalpool": GlobalPool,
    "classifier": Classifier,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _KINDS.items()}


def write_text(blocks: Sequence[Block], input_shape: Shape, num_classes: int) -> str:
    """Return the canonical text."""
    words = [str(block) for block in blocks]
    if num_classes != DEFAULT_CLASSES:
        words = [word.replace("C", f"C{num_classes}") for word in words]
    if input_shape != DEFAULT_SHAPE:
        words.insert(0, "x".join(map(str, input_shape)) + ":")
    return " ".join(words)


def read_text(text: str, input_shape: Shape | None, num_classes: int | None) -> Description:
    """Return what a text describes; raises `UsageError` as `Architecture.parse` does."""
    words = text.split()
    blocks: list[Block] = []
    if words and (match := _INPUT.fullmatch(words[0])):
        named: Shape = (int(match[1]), int(match[2]), int(match[3]))
        if input_shape is not None and named != input_shape:
            raise UsageError(f"'{words[0]}' is at odds with the input {input_shape} of the data set: drop it")
        input_shape, words = named, words[1:]
    for word in words:
        if word == "M":
            blocks.append(MaxPool())
        elif word == "G":
            blocks.append(GlobalPool())
        elif match := _CLASSIFIER.fullmatch(word):
            if match[1] and num_classes not in (None, int(match[1])):
                raise UsageError(f"'{word}' is at odds with the {num_classes} classes named before: write C")
            num_classes = int(match[1]) if match[1] else num_classes
            blocks.append(Classifier(bias=bool(match[2])))
        elif match := _CONV.fullmatch(word):
            separable, width, kernel, stride, valid, bias, no_norm, relu_first, residual = match.groups()
            blocks.append(
                Conv(
                    width=int(width),
                    separable=bool(separable),
                    kernel_size=int(kernel or 3),
                    stride=int(stride or 1),
                    padded=not valid,
                    bias=bool(bias),
                    norm=not no_norm,
                    relu_first=bool(relu_first),
                    residual=bool(residual),
                )
            )
        elif match := _INVERTED.fullmatch(word):
            width, expansion, kernel, stride, valid, residual = match.groups()
            blocks.append(
                InvertedBottleneck(
                    width=int(width),
                    expansion=int(expansion),
                    kernel_size=int(kernel or 3),
                    stride=int(stride or 1),
                    padded=not valid,
                    residual=bool(residual),
                )
            )
        else:
            raise UsageError(
                f"unknown word {word!r} in an architecture: "
                "a block is [s]WIDTH[kN][/N][v][b][n][r][+] or iWIDTHxN[kN][/N][v][+], a pool M or G, "
                "the classifier C or Cb"
            )
    shape = DEFAULT_SHAPE if input_shape is None else input_shape
    return tuple(blocks), shape, DEFAULT_CLASSES if num_classes is None else num_classes


def write_json(blocks: Sequence[Block], input_shape: Shape, num_classes: int) -> str:
    """Return the JSON, with every field of every block."""
    fields = [{"kind": _NAMES[type(block)], **dataclasses.asdict(block)} for block in blocks]
    return json.dumps({"input_shape": input_shape, "num_classes": num_classes, "blocks": fields}, indent=1)


def read_json(text: str) -> Description:
    """Return what a JSON describes; raises `UsageError` on anything but the JSON of `write_json`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not the JSON of an architecture: {error}") from error
    fields = _fields(value, "an architecture", ("input_shape", "num_classes", "blocks"))
    blocks, shape = fields["blocks"], fields["input_shape"]
    if not isinstance(blocks, list) or not isinstance(shape, list):
        raise UsageError(f"blocks and input_shape are lists in JSON, not as in {reprlib.repr(fields)}")
    return tuple(_block(block) for block in blocks), tuple(shape), fields["num_classes"]


def _block(value: Any) -> Block:
    """Return the block of a JSON object."""
    name = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in _KINDS:
        raise UsageError(f"a block in JSON has a kind, one of {', '.join(_KINDS)}, and not {reprlib.repr(value)}")
    names = [field.name for field in dataclasses.fields(_KINDS[name])]
    fields = _fields(value, f"a {name} block", ["kind", *names])
    return _KINDS[name](**{key: fields[key] for key in names})


def _fields(value: Any, what: str, names: Sequence[str]) -> dict[str, Any]:
    """Return `value`, which must be a JSON object of just these keys."""
    if not isinstance(value, dict) or value.keys() != set(names):
        raise UsageError(f"{what} in JSON is an object of {', '.join(names)}, not {reprlib.repr(value)}")
    return value
