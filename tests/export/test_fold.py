"""The folded network is the network; what waits is folded where that is exact, and only there."""

from __future__ import annotations

import pytest
import torch
from deployed import ARCHITECTURES, RECORDS, mnist, random_images, random_network, record
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import architectures

from nas.architecture import Architecture
from nas.export.fold import FoldedNetwork, fold
from nas.footprint import Classifier, Convolution, GlobalAveragePool
from nas.model import TrainedNetwork


def eager(network: TrainedNetwork, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = network.module()(network.normalization.apply(images))
    return logits


def depthwise_1x1(folded: FoldedNetwork) -> int:
    return sum(
        isinstance(operation, Convolution) and operation.depthwise and operation.kernel_size == 1
        for operation in folded.operations
    )


@given(architectures(), st.booleans())
def test_the_folded_network_gives_the_eager_logits(architecture: Architecture, one_pad_value: bool) -> None:
    network, images = random_network(architecture), random_images(architecture, 3)
    wanted = eager(network, images)
    logits = fold(network, one_pad_value=one_pad_value).run(images)
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("cap", RECORDS)
def test_the_folded_records_give_the_eager_logits(cap: int, mnist_dir) -> None:
    network, (images, _) = record(cap), mnist(mnist_dir, "train", 200)
    torch.testing.assert_close(fold(network).run(images), eager(network, images), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1x9x9: 4 4 G C", 0),  # conv-norm-ReLU: into the convolution before
        ("1x9x9: 4vr 4vr 4k1r C G", 0),  # conv-ReLU-norm: into the next, which is valid or 1x1, and through the pool
        ("1x9x9: 4vr 4r 4r G C", 2),  # ... but not into a padded one
        ("1x9x9: 4 4r+ 4v G C", 1),  # nor past a residual
        ("1x9x9: 4r s6 M G C", 1),
    ],
)
def test_norms_that_cannot_be_folded_become_1x1_depthwise_convolutions(text: str, count: int) -> None:
    assert depthwise_1x1(fold(random_network(Architecture.parse(text)))) == count


def test_a_norm_passes_a_max_pool_where_no_factor_is_negative() -> None:
    network = random_network(Architecture.parse("1x9x9: 4vr M 4v G C"))
    assert (network.state_dict["2.weight"] < 0).any()
    assert depthwise_1x1(fold(network)) == 1
    network.state_dict["2.weight"].abs_()
    assert depthwise_1x1(fold(network)) == 0


def test_the_pool_comes_before_the_classifier() -> None:
    for text in ("1x9x9: 4v G Cb", "1x9x9: 4v Cb G"):
        *_, pool, classifier = fold(random_network(Architecture.parse(text))).operations
        assert isinstance(pool, GlobalAveragePool)
        assert isinstance(classifier, Classifier)


def test_unlike_channels_get_a_normalisation_of_their_own_where_padding_has_one_value() -> None:
    network = random_network(Architecture.parse("3x9x9: 4 G C"))
    assert depthwise_1x1(fold(network)) == 0
    assert depthwise_1x1(fold(network, one_pad_value=True)) == 1


@settings(max_examples=5)
@given(st.sampled_from(ARCHITECTURES))
def test_shapes_follow_one_another(text: str) -> None:
    folded = fold(random_network(Architecture.parse(text)))
    for before, after in zip(folded.operations, folded.operations[1:], strict=False):
        assert before.output_shape == after.input_shape
    assert folded.operations[-1].output_shape == (len(folded.classes), 1, 1)
