"""What the tests share: how hard hypothesis tries, where the real MNIST is, and architectures of the whole language."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from nas.architecture import Architecture, Classifier, Conv, GlobalPool, MaxPool
from nas.errors import UsageError

# No deadline: the first example of a test pays for imports. In CI the examples are the same on every run.
settings.register_profile("nas", deadline=None, max_examples=50, derandomize="CI" in os.environ)
settings.load_profile("nas")

MNIST_FILES = [f"{split}-{part}-ubyte" for split in ("train", "t10k") for part in ("images-idx3", "labels-idx1")]


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder that holds MNIST/raw."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "datasets"
    root = Path(os.environ.get("NAS_DATA_DIR") or shared)
    missing = [name for name in MNIST_FILES if not (root / "MNIST" / "raw" / name).is_file()]
    if missing:
        pytest.skip(f"no MNIST/raw/{missing[0]} in {root}: set NAS_DATA_DIR to a folder that holds MNIST/raw")
    return root


@st.composite
def conv_blocks(draw: st.DrawFn, max_width: int = 12) -> Conv:
    """Any block of the language, most of them without a residual, which few shapes allow."""
    separable = draw(st.booleans())
    kernel_size = draw(st.sampled_from((3, 5, 7) if separable else (1, 3, 5, 7)))
    norm = draw(st.booleans())
    return Conv(
        width=draw(st.integers(1, max_width)),
        separable=separable,
        kernel_size=kernel_size,
        stride=draw(st.sampled_from((1, 1, 2))),
        padded=kernel_size == 1 or draw(st.booleans()),
        bias=draw(st.booleans()),
        norm=norm,
        relu_first=norm and draw(st.booleans()),
    )


@st.composite
def architectures(draw: st.DrawFn, max_width: int = 12, max_side: int = 20) -> Architecture:
    """A legal architecture of the whole language: every block kind, pool place, head, input shape and class count."""
    input_shape = (draw(st.integers(1, 4)), draw(st.integers(1, max_side)), draw(st.integers(1, max_side)))
    num_classes = draw(st.sampled_from((10, 10, 1, 2, 100)))
    classifier = Classifier(bias=draw(st.booleans()))
    dense = draw(st.lists(conv_blocks(max_width).filter(lambda block: block.kernel_size == 1), max_size=2))
    heads = ((classifier, GlobalPool()), (GlobalPool(), classifier), (GlobalPool(), *dense, classifier))
    head = draw(st.sampled_from(heads))

    def made(blocks: tuple[Conv | MaxPool, ...]) -> Architecture:
        return Architecture(blocks=(*blocks, *head), input_shape=input_shape, num_classes=num_classes)

    blocks: tuple[Conv | MaxPool, ...] = ()
    for block in draw(st.lists(conv_blocks(max_width) | st.just(MaxPool()), max_size=6)):
        try:
            before = made(blocks).layers[-1 - sum(1 for _ in made(blocks).layers)] if False else None
            assert before is None
            made((*blocks, block))
        except UsageError:  # the map would shrink to nothing: leave the block out
            continue
        blocks = (*blocks, block)
    return made(blocks)
