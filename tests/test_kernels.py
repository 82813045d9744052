"""The kernels against torch, which shares no code with them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nas import kernels
from nas.architecture import Architecture
from nas.errors import UsageError
from nas.model import build

pytestmark = pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compiles outside any test's own time; puts the thread's denormals back afterwards."""
    kernels.compile_all()
    yield
    torch.set_flush_denormal(False)


def pair(text, *, input_shape=None, seed=0):
    """An architecture, a float32 model of it for the kernels and a float64 one with the same weights for torch.

    Norms and biases are moved off their starting values, so that a gradient mistaken for another shows.
    """
    architecture = Architecture.parse(text, input_shape=input_shape)
    model = build(architecture, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return architecture, model, copy.deepcopy(model).double()


def batch(architecture, n, *, seed=0):
    generator = torch.Generator().manual_seed(seed + 1)
    images = torch.randn(*architecture.input_shape, n, generator=generator)
    return images, torch.randint(0, architecture.num_classes, (n,), generator=generator)


def torch_step(model, images, labels, smoothing=0.0):
    logits = model(images.permute(3, 0, 1, 2).to(next(model.parameters()).dtype))
    loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    for parameter in model.parameters():
        parameter.grad = None
    loss.backward()
    return loss.item(), int((logits.argmax(1) == labels).sum())


def check(text, n, *, input_shape=None, smoothing=0.0, seed=0, tolerance=1e-4):
    architecture, model, reference = pair(text, input_shape=input_shape, seed=seed)
    images, labels = batch(architecture, n, seed=seed)
    single = copy.deepcopy(model)
    network = kernels.Network(architecture, model)
    loss, correct = network.step(images, labels, label_smoothing=smoothing)
    expected, expected_correct = torch_step(reference, images, labels, smoothing)
    torch_step(single, images, labels, smoothing)
    assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert correct == expected_correct
    largest = max(float(p.grad.norm()) for p in reference.parameters())
    rows = zip(model.named_parameters(), single.parameters(), reference.parameters(), strict=True)
    for (name, ours), torchs, exact in rows:
        # Some gradients are zero but for rounding (a bias before a norm): measured against the largest as well.
        scale = float(exact.grad.norm()) + 0.1 * largest
        error, rounding = (float((each.grad - exact.grad).norm()) / scale for each in (ours, torchs))
        # Where a value near zero falls to the other side of a ReLU, torch's own float32 is off by more.
        assert error < max(tolerance, 2 * rounding), (name, error, rounding)
    for (name, ours), theirs in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6, msg=name)
    reference.eval()
    with torch.no_grad():
        wanted = reference(images.permute(3, 0, 1, 2).double())
    torch.testing.assert_close(network.logits(images).double(), wanted, rtol=1e-4, atol=1e-5)
    return images


@pytest.mark.parametrize("n", [2, 3, 7, 16, 17, 40, 96, 128])
@pytest.mark.parametrize(
    "text",
    [
        "8vr 9vr M 5v C G",
        "4v s6 M s7v 5k1 G Cb",
        "3k7 5k5/2 M G C",
        "6bn s6n+ M s6r+ 6b+ G 9k1r 9k1+ C",
        "3k1/2 s4/2 s5/2v Cb G",
        "M 2 M M 3 G C",
        "2+ 2r+ s2+ M 3 G C",
        "13 7k1b s11k7/2vn G 4k1b Cb",
    ],
)
def test_every_block_follows_torch(text, n):
    check(text, n, input_shape=(2, 14, 13), smoothing=0.1)


CONV = st.tuples(
    st.sampled_from(["", "", "s"]), st.integers(1, 64), st.sampled_from(["", "", "k1", "k5", "k7"]),
    st.sampled_from(["", "", "/2"]), st.sampled_from(["", "v"]), st.sampled_from(["", "b"]), st.sampled_from(["", "n"]),
    st.sampled_from(["", "r"]), st.sampled_from(["", "", "+"]),
).map(lambda parts: "".join(map(str, parts)))  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    body=st.lists(st.one_of(CONV, CONV, st.just("M")), min_size=1, max_size=4),
    head=st.sampled_from(["C G", "Cb G", "G C", "G Cb", "G 5k1r C", "G 64k1bn Cb"]),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 11), st.integers(1, 11)),
    n=st.sampled_from([1, 2, 3, 7, 17, 33, 96]),
)
def test_random_networks_follow_torch(body, head, shape, n):
    try:
        architecture = Architecture.parse(" ".join([*body, head]), input_shape=shape)
    except UsageError:
        assume(False)
    # With a few values a channel a norm divides by next to nothing, and float32 has no digits left to compare.
    assume(all(a.op != "norm" or n * a.output_shape[1] * a.output_shape[2] >= 12 for a in architecture.layers))
    # Rounding can move an image across a ReLU or to another maximum, which changes a gradient by its share.
    check(str(architecture), n, tolerance=3e-3)


@pytest.mark.parametrize("text", ["3k1n M 4n M G C", "4k1r M 5r G C", "2n 2n+ M M G C"])
def test_tied_maxima_send_their_gradient_where_torch_does(text):
    architecture, model, _ = pair(text, input_shape=(1, 9, 8))
    with torch.no_grad():  # exact arithmetic: ties here are ties there
        for parameter in model.parameters():
            parameter.copy_((parameter * 8).round() / 8 if parameter.ndim == 4 else parameter.round())
    reference = copy.deepcopy(model).double()
    images = torch.randint(0, 3, (1, 9, 8, 21), generator=torch.Generator().manual_seed(0)).float()
    labels = torch.arange(21) % 10
    kernels.Network(architecture, model).step(images, labels)
    torch_step(reference, images, labels)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-5)


def test_a_training_run_follows_torch():
    architecture, model, _ = pair("6v s8 M 10r 10+ G C")
    reference = copy.deepcopy(model)
    network = kernels.Network(architecture, model)
    ours = torch.optim.AdamW(model.parameters(), lr=3e-3, fused=True)
    theirs = torch.optim.AdamW(reference.parameters(), lr=3e-3, fused=True)
    for k in range(25):
        images, labels = batch(architecture, 32 if k % 5 else 19, seed=k)
        images[:, :14] += labels / 5  # something to learn
        loss, _ = network.step(images, labels)
        ours.step()
        expected, _ = torch_step(reference, images, labels)
        theirs.step()
        assert loss == pytest.approx(expected, rel=2e-3)
    assert loss < 2.0
    reference.load_state_dict(model.state_dict())  # weights trained here mean the same there
    reference.eval()
    with torch.no_grad():
        wanted = reference(images.permute(3, 0, 1, 2))
    torch.testing.assert_close(network.logits(images), wanted, rtol=1e-4, atol=1e-5)


def test_the_same_bits_twice_whatever_ran_between():
    def run(others):
        architecture, model, _ = pair("8vr s10 M 10+ 10+ G Cb")
        network = kernels.Network(architecture, model)
        for n in others:
            network.step(*batch(architecture, n, seed=n))
        network.logits(batch(architecture, 200)[0])
        model.load_state_dict(pair("8vr s10 M 10+ 10+ G Cb")[1].state_dict())
        losses = [network.step(*batch(architecture, n, seed=9))[0] for n in (48, 13, 48)]
        return losses, [p.grad.clone() for p in model.parameters()], list(model.buffers())

    (losses, gradients, buffers), again = run([]), run([48, 13, 5, 96])
    assert losses == again[0]
    assert all(map(torch.equal, gradients, again[1]))
    assert all(map(torch.equal, buffers, again[2]))


def test_observing_moves_the_running_statistics_as_torch_does_and_nothing_else():
    architecture, model, _ = pair("5vr s8 M 6 6+ G 7k1 Cb")
    reference, before = copy.deepcopy(model), copy.deepcopy(model)
    network = kernels.Network(architecture, model)
    norms = [module for module in reference.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for number, count in enumerate((32, 21)):
        images, labels = batch(architecture, count, seed=number)
        network.observe(images, 1 / (number + 1))
        for norm in norms:
            norm.momentum = 1 / (number + 1)
        with torch.no_grad():
            reference.train()(images.permute(3, 0, 1, 2))
    for (name, ours), theirs in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=name)
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    untouched, observed = copy.deepcopy(before), copy.deepcopy(before)
    network = kernels.Network(architecture, observed)
    network.observe(images, 0.0)
    network.step(images, labels)  # with the usual momentum again
    kernels.Network(architecture, untouched).step(images, labels)
    for (name, ours), theirs in zip(observed.named_buffers(), untouched.buffers(), strict=True):
        assert ours.equal(theirs) or "batches" in name


def test_evaluation_does_not_depend_on_how_the_images_are_cut():
    architecture, model, _ = pair("5v M 6r G C")
    images, labels = batch(architecture, 301)
    network = kernels.Network(architecture, model)
    whole = network.logits(images)
    assert whole.shape == (301, 10)
    network.step(images[..., :16].contiguous(), labels[:16])
    model.load_state_dict(pair("5v M 6r G C")[1].state_dict())
    parts = torch.cat([network.logits(images[..., k : k + 77]) for k in range(0, 301, 77)])
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)


def test_in_place_changes_and_moved_parameters_are_seen():
    architecture, model, _ = pair("5v M 6r G C")
    images, labels = batch(architecture, 24)
    network = kernels.Network(architecture, model)
    network.step(images, labels)
    before = network.logits(images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    scaled = network.logits(images)
    assert not torch.equal(before, scaled)
    for parameter in model.parameters():
        parameter.data = parameter.detach().clone()  # another place in memory
        parameter.grad = None
    assert torch.equal(network.logits(images), scaled)
    network.step(images, labels)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("text", ["4vr M 5 G C", "4v s5 C G", "4n M 4n+ G C"])
def test_a_nan_stays_a_nan(text, value):
    architecture, model, _ = pair(text)
    images, labels = batch(architecture, 20)
    images[0, 10, 10, 3] = value
    network = kernels.Network(architecture, model)
    assert not network.logits(images)[3].isfinite().all()
    assert not torch.tensor(network.step(images, labels)[0]).isfinite()
    model.load_state_dict(pair(text)[1].state_dict())
    images[0, 10, 10, 3] = float("nan")
    assert network.logits(images)[3].isnan().all()


def test_few_images_take_few_vectors():
    """A teacher has the batches of its student: with 128 images each, those of 32 took it four times as long."""
    architecture, model, _ = pair("4v M 5 G C")
    images, _ = batch(architecture, 300)
    many, few = kernels.Network(architecture, model), kernels.Network(architecture, model)
    whole = many.logits(images)
    assert many._plans.keys() == {kernels.EVALUATION_BATCH}
    assert few.logits(images[..., :20]).equal(whole[:20])
    assert few._plans.keys() == {20}
    assert few.logits(images).equal(whole)


def test_what_cannot_be_trained_is_refused():
    architecture, model, _ = pair("4v M 5 G 6k1 C")
    network = kernels.Network(architecture, model)
    images, labels = batch(architecture, 8)
    with pytest.raises(ValueError, match="more than one value a channel"):
        network.step(images[..., :1], labels[:1])
    with pytest.raises(ValueError, match=r"0\.\.9"):
        network.step(images, labels + 5)
    with pytest.raises(ValueError, match=r"\(8,\) int64"):
        network.step(images, labels[:7])
    with pytest.raises(ValueError, match="float32"):
        network.step(images.double(), labels)
    with pytest.raises(ValueError, match="batch dimension"):
        network.logits(images.permute(3, 0, 1, 2))


@pytest.mark.parametrize(("shape", "n"), [((1, 28, 28), 37), ((3, 7, 12), 16), ((2, 5, 4), 1)])
def test_augment_is_affine_grid_and_grid_sample(shape, n):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (50, *shape), generator=generator, dtype=torch.uint8)
    index = torch.randint(0, 50, (n,), generator=generator)
    theta = torch.eye(2, 3) + 0.4 * torch.randn(n, 2, 3, generator=generator)
    theta[0] = torch.tensor([[1.0, 0, 5], [0, 1, -7]])  # all of it outside
    mean, std = torch.linspace(0.1, 0.4, shape[0]), torch.linspace(0.3, 0.5, shape[0])
    grid = functional.affine_grid(theta, [n, *shape], align_corners=False)
    raw = functional.grid_sample(images[index].float(), grid, align_corners=False)
    wanted = ((raw / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).permute(1, 2, 3, 0)
    torch.testing.assert_close(kernels.augment(images, index, theta, mean, std), wanted, rtol=1e-4, atol=2e-4)
    plain = ((images[index].float() / 255 - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).permute(1, 2, 3, 0)
    torch.testing.assert_close(kernels.gather(images, index, mean, std), plain, rtol=1e-5, atol=1e-5)
    identity = torch.eye(2, 3).expand(n, 2, 3)
    torch.testing.assert_close(kernels.augment(images, index, identity, mean, std), plain, rtol=1e-4, atol=1e-4)


def test_the_peak_is_that_of_a_processor():
    assert 1 < kernels.peak_gflops() < 1000


def test_gather_refuses_what_is_not_there():
    images = torch.zeros(5, 1, 3, 3, dtype=torch.uint8)
    for index in (5, -1):
        with pytest.raises(IndexError, match=r"0\.\.4"):
            kernels.gather(images, torch.tensor([0, index]), 0.1, 0.3)


def test_without_numba_the_reason_is_given():
    code = (
        "import sys; sys.modules['numba'] = None; import nas.kernels as k; reason = k.unsuited(); "
        "assert reason and 'numba' in reason, reason"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(kernels.__file__).parents[1], timeout=60)


def test_a_process_that_finds_no_machine_code_trains_the_same_bits(tmp_path):
    """The first on a machine, which has it compiled, and the next, which loads it."""
    code = (
        "import hashlib, torch, toys; from nas.train import Recipe, train; from nas.architecture import Architecture\n"
        "torch.set_num_threads(1); data = toys.part(toys.synthetic(), 640)\n"
        "network = Architecture.parse('6 M s8b 8k1r M C G', input_shape=(1, 16, 16), num_classes=4)\n"
        "run = train(network, data, data.validation, Recipe(epochs=4, batch_size=32), backend='kernels')\n"
        "print(hashlib.sha256(b''.join(v.numpy().tobytes() for v in run.state_dict.values())).hexdigest())"
    )
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, text=True, capture_output=True).stdout
        for _ in range(2)
    )
    assert first == second
    assert len(first.strip()) == 64


# Soft targets


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 2.0), (0.9, 2.0), (1.0, 0.7), (0.5, 8.0)])
def test_soft_targets_have_the_gradient_of_the_divergence(share, temperature):
    architecture = Architecture.parse("6v M s8 9vr G Cb", input_shape=(2, 14, 13))
    ours, reference = build(architecture, seed=1), build(architecture, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(2, 14, 13, 21, generator=generator)
    labels = torch.randint(10, (21,), generator=generator)
    soft = (3 * torch.randn(21, 10, generator=generator)).softmax(1)
    loss, _ = kernels.Network(architecture, ours).step(
        images, labels, label_smoothing=0.1, soft=soft, soft_share=share, temperature=temperature
    )
    logits = reference(images.permute(3, 0, 1, 2).double())
    plain = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    likely = (logits / temperature).log_softmax(1)
    divergence = (soft.double() * (soft.double().log() - likely)).sum(1).mean()
    ((1 - share) * plain + share * temperature**2 * divergence).backward()
    assert loss == pytest.approx(plain.item(), rel=1e-5)
    for mine, its in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.double(), its.grad, rtol=1e-3, atol=1e-4)


def test_soft_targets_of_another_shape_are_refused():
    architecture = Architecture.parse("6 G C")
    network = kernels.Network(architecture, build(architecture))
    images, labels = torch.zeros(1, 28, 28, 4), torch.zeros(4, dtype=torch.int64)
    for wrong in (torch.zeros(4, 9), torch.zeros(3, 10), torch.zeros(4, 10, dtype=torch.float64)):
        with pytest.raises(ValueError, match="soft is"):
            network.step(images, labels, soft=wrong)
