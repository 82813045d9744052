"""The parts of a population, each beside what it stands for: fused networks beside modules, one SOAP for all."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from nas.architecture import Architecture
from nas.model import build
from nas.train import soap
from nas.train.optim import flatten
from nas.train.population_network import FusedNetwork, plan_of, weight_shapes
from nas.train.population_soap import CORRECTION, RATE, SHRINK, PopulationSoap, SoapPart, SoapState, orthogonal, rounded
from nas.train.soap import BETA, Soap


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def arch(text):
    return Architecture.parse(text, input_shape=(3, 12, 12), num_classes=5)


PLANS = [
    ["8v 8+ M 6k5b C G", "5v 5+ M 9k5b C G", "1v 1+ M 1k5b C G"],
    ["s8/2r s8k5+ G 6k1 Cb", "s5/2r s5k5+ G 7k1 Cb"],
    ["M 4bn 4n+ k1".replace(" k1", " 6k1") + " G C", "M 7bn 7n+ 2k1 G C"],
    ["3+ 9k7 G C", "3+ 4k7 G C"],
    ["s1 s4 C G", "s6 s4 C G"],
]


@pytest.mark.parametrize("texts", PLANS)
@pytest.mark.parametrize("each_its_own_images", [False, True])
def test_fused_networks_give_each_its_logits_and_gradients(texts, each_its_own_images):
    architectures = [arch(text) for text in texts]
    count, generator = len(texts), torch.Generator().manual_seed(0)
    assert len({plan_of(architecture) for architecture in architectures}) == 1
    images = torch.randn(count, 7, 3, 12, 12, generator=generator)
    labels = torch.randint(5, (count, 7), generator=generator)
    fused = FusedNetwork(architectures, 3, 2)
    flat, gradient, statistics = torch.zeros(fused.end), torch.zeros(fused.end), torch.zeros(fused.statistics_end)
    models = [build(architecture, seed=seed) for seed, architecture in enumerate(architectures)]
    flats = [flatten(model) for model in models]
    places = [fused.places(number, architecture) for number, architecture in enumerate(architectures)]
    for (own, _, num_params), (mine, _) in zip(flats, places, strict=True):
        flat[mine] = own[:num_params]
    parameters = fused.bind(flat, gradient)
    given = images if each_its_own_images else images[0]
    logits = fused(given, parameters, fused.bind_statistics(statistics), training=True)
    sum(F.cross_entropy(logits[number], labels[number]) for number in range(count)).backward()
    untouched = torch.ones(len(flat), dtype=torch.bool)
    for number, (model, (own, own_gradient, num_params), (mine, norms)) in enumerate(
        zip(models, flats, places, strict=True)
    ):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        expected = model(images[number if each_its_own_images else 0])
        F.cross_entropy(expected, labels[number]).backward()
        torch.testing.assert_close(logits[number], expected)
        torch.testing.assert_close(gradient[mine], own_gradient[:num_params])
        torch.testing.assert_close(statistics[norms], own[num_params:])
        again = fused(given, fused.bind(flat), fused.bind_statistics(statistics), training=False)[number]
        torch.testing.assert_close(again, model.eval()(images[number if each_its_own_images else 0]))
        untouched[mine] = False
    assert untouched.any() == (len({math.prod(map(len, places[0])), *(len(mine) for mine, _ in places)}) > 1)
    assert gradient[untouched].count_nonzero() == 0
    assert flat[untouched].count_nonzero() == 0


def test_a_plan_is_all_but_the_widths():
    same, *others = map(
        arch, ["8 M 9 G C", "4 M 5 G C", "8 M 9b G C", "8 9 M G C", "8 M 9k5 G C", "8 M 9 G Cb", "8 M s9 G C"]
    )
    assert plan_of(same) == plan_of(others[0])
    assert len({plan_of(same), *map(plan_of, others[1:])}) == len(others)


def test_padded_macs_are_those_of_the_widest():
    fused = FusedNetwork([arch("8 M 4 G C"), arch("3 M 9 G C")], 0, 0)
    assert fused.padded_macs == 2 * arch("8 M 9 G C").macs


# --- SOAP -------------------------------------------------------------------------------------------------------------

TEXTS = ["6v s8 G C", "6v s8 G C", "20v s5b 9k1 G Cb", "3n 60k1 G C"]
PHASES = [0, 0, 3, 5]


def follow(steps, split_at=None, monkeypatch=None):
    """Flat weights of each network after so many steps, alone and as one: repacked in another order midway."""
    architectures = [arch(text) for text in TEXTS]
    generator = torch.Generator().manual_seed(1)
    shapes = [weight_shapes(architecture) for architecture in architectures]
    counts = [architecture.num_params for architecture in architectures]
    weights = [torch.randn(count, generator=generator) for count in counts]
    own = [
        Soap(flat.clone(), torch.zeros_like(flat), shape, lr=0.1, weight_decay=0.5)
        for flat, shape in zip(weights, shapes, strict=True)
    ]
    states = [SoapState(torch.zeros(count), torch.zeros(count)) for count in counts]
    mixing = [torch.randn(count, 12, generator=generator) for count in counts]
    for number, phase in enumerate(PHASES):  # those steps they have taken before
        for _ in range(phase):
            take(own[number], mixing[number], number, generator)
    if any(PHASES):
        states = [state_of(optimizer) for optimizer in own]
        weights = [optimizer.flat.clone() for optimizer in own]
    together = packed(weights, shapes, states, PHASES)
    done = list(PHASES)
    for step in range(steps):
        if step == split_at:
            optimizer, places = together
            weights, states = [optimizer.flat[mine] for mine in places], optimizer.states()
            together = packed(weights, shapes, states, [each % 10 for each in done])
            start = 0
        start = step - (split_at if split_at is not None and step >= split_at else 0)
        optimizer, places = together
        for number, mine in enumerate(places):
            rate = 0.01 * (number + 1)
            done[number] += 1
            gradient = take(own[number], mixing[number], number, generator)
            optimizer.gradient[mine] = gradient
            correction = 1 - BETA ** done[number]
            optimizer.numbers[[CORRECTION, RATE, SHRINK], number] = torch.tensor(
                [correction, rate / correction, 1 - rate * 0.5]
            )
        optimizer.numbers[[CORRECTION, SHRINK], -1] = 1
        optimizer.update()
        for phase in optimizer.phases:
            if (phase + start + 1) % 10 == 0:
                optimizer.update_bases(phase)
    return [each.flat for each in own], together


def take(optimizer, mixing, number, generator):
    gradient = mixing @ torch.randn(12, generator=generator)
    optimizer.gradient.copy_(gradient)
    optimizer.param_groups[0]["lr"] = 0.01 * (number + 1)
    optimizer.step()
    return gradient


def state_of(optimizer):
    matrices = optimizer.matrices
    return SoapState(
        optimizer.mean.clone(), optimizer.square.clone(),
        [tuple(None if each is None else each.clone() for each in matrix.moments) for matrix in matrices],
        [tuple(None if each is None else each.clone() for each in matrix.bases) for matrix in matrices],
    )  # fmt: skip


def packed(weights, shapes, states, phases):
    """With gaps in the flat tensor, as padding leaves them."""
    places, end = [], 2
    for flat in weights:
        places.append(torch.arange(end, end + 2 * len(flat), 2))
        end += 2 * len(flat)
    whole = torch.zeros(end + 1)
    for flat, mine in zip(weights, places, strict=True):
        whole[mine] = flat
    parts = [
        SoapPart(places=mine, shapes=shape, state=state, phase=phase)
        for mine, shape, state, phase in zip(places, shapes, states, phases, strict=True)
    ]
    return PopulationSoap(whole, torch.zeros(end + 1), parts), places


@pytest.mark.parametrize("split_at", [None, 17])
def test_one_optimizer_moves_each_network_as_its_own(monkeypatch, split_at):
    """Over renewals of the bases at different steps, sides without a basis among them."""
    monkeypatch.setattr(soap, "PRECONDITION_FREQUENCY", 10)
    own, (optimizer, places) = follow(45, split_at)
    untouched = torch.ones(len(optimizer.flat), dtype=torch.bool)
    for flat, mine in zip(own, places, strict=True):
        torch.testing.assert_close(optimizer.flat[mine], flat, rtol=1e-6, atol=1e-6)
        untouched[mine] = False
    assert optimizer.flat[untouched].count_nonzero() == 0
    assert len(optimizer.buckets) < sum(len(weight_shapes(arch(text))) for text in TEXTS)


def test_a_side_too_long_has_no_basis(monkeypatch):
    monkeypatch.setattr("nas.train.population_soap.MAX_PRECONDITION_DIM", 9)
    shapes = [(5, 1, 3, 3), (4, 3, 3, 3), (10, 4, 1, 1)]
    count = sum(math.prod(shape) for shape in shapes)
    state = SoapState(torch.zeros(count), torch.zeros(count))
    optimizer, _ = packed([torch.zeros(count)], [shapes], [state], [0])
    found = {
        bucket.entries[0].matrix: [None if basis is None else len(basis[0]) for basis in bucket.bases]
        for bucket in optimizer.buckets
    }
    assert found == {0: [None, 16], 1: [8, None], 2: [None, 8]}


def test_few_sizes_and_little_padding():
    sizes = [rounded(size) for size in range(1, 401)]
    assert len(set(sizes)) <= 20
    assert all(size <= padded < 1.26 * size + 8 for size, padded in enumerate(sizes, start=1))


@pytest.mark.parametrize("size", [1, 2, 9, 40])
def test_orthogonal_is_the_q_of_qr_for_all_matrices_at_once(size):
    matrices = torch.randn(6, size, size, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(orthogonal(matrices), torch.linalg.qr(matrices)[0])


def test_orthogonal_stands_what_has_no_full_rank():
    """Padding must not mix with what is real, even where that is zero."""
    matrices = torch.zeros(3, 9, 9)
    matrices[1, :5, :2] = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    matrices[:, 6:, 6:] = torch.eye(3)
    found = orthogonal(matrices)
    torch.testing.assert_close(found.mT @ found, torch.eye(9).expand(3, 9, 9))
    assert found[:, 6:, :6].count_nonzero() == found[:, :6, 6:].count_nonzero() == 0
    assert orthogonal(torch.full((2, 4, 4), math.nan)).isnan().any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: its libraries are others")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orthogonal_on_a_cuda_device(dtype):
    matrices = torch.randn(200, 48, 48, generator=torch.Generator().manual_seed(0)).to(dtype)
    matrices[3], matrices[4, :, 5:] = 0, 0
    found = orthogonal(matrices.to("cuda")).cpu()
    eye = torch.eye(48, dtype=dtype).expand(200, 48, 48)
    torch.testing.assert_close(found.mT @ found, eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[5:].abs(), torch.linalg.qr(matrices[5:])[0].abs(), rtol=1e-3, atol=1e-3)
