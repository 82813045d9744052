"""Making channels equal changes nothing but their ranges."""

from __future__ import annotations

import pytest
import torch
from deployed import ARCHITECTURES, random_images, random_network

from nas.architecture import Architecture
from nas.export.calibrate import equalize, observe
from nas.export.fold import fold
from nas.footprint import Convolution


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_equal_channels_compute_the_same(text: str) -> None:
    architecture = Architecture.parse(text)
    folded, images = fold(random_network(architecture)), random_images(architecture)
    wanted = folded.run(images)
    logits = equalize(folded, observe(folded, images)).run(images)
    torch.testing.assert_close(logits, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-3)


def test_channels_are_brought_to_one_range() -> None:
    architecture = Architecture.parse("1x9x9: 6v s5v 4v G C")
    folded, images = fold(random_network(architecture)), random_images(architecture, 50)

    def unlike(seen: list) -> float:
        """The largest ratio of two channels' ranges, of channels that are ever active."""
        ratios = []
        for operation, activations in zip(folded.operations, seen, strict=True):
            if isinstance(operation, Convolution):
                largest = torch.maximum(activations.high, -activations.low)
                largest = largest[largest > 0]
                ratios.append(float(largest.max() / largest.min()))
        return max(ratios)

    seen = observe(folded, images)
    equal = observe(equalize(folded, seen), images)
    assert unlike(equal) < 2.5 < unlike(seen)  # 2: the range that is taken may be half of what is seen


def test_the_range_with_the_least_squared_error_leaves_out_a_stray_value() -> None:
    architecture = Architecture.parse("1x9x9: 2k1n G C")
    folded = fold(random_network(architecture))
    images = random_images(architecture, 50) // 8
    images[0, 0, 0, 0] = 64
    seen = observe(folded, images)[0]
    low, high = seen.channel_range()
    assert (low == 0).all()
    assert (high <= seen.high).all()
    assert torch.equal(seen.high, seen.sample.amax(1))


def test_means_are_those_before_the_relu() -> None:
    architecture = Architecture.parse("1x9x9: 4v G C")
    folded, images = fold(random_network(architecture)), random_images(architecture, 130)
    first = folded.operations[0]
    assert isinstance(first, Convolution)
    wanted = torch.nn.functional.conv2d(images.float(), torch.from_numpy(first.weight), torch.from_numpy(first.bias))
    mean = observe(folded, images)[0].mean
    torch.testing.assert_close(mean.float(), wanted.mean((0, 2, 3)), atol=1e-3, rtol=1e-3)
