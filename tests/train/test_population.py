"""A population's networks must come to the same as each alone: shown in float64, where rounding is no excuse."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import toys

from nas.architecture import Architecture
from nas.data import Split
from nas.errors import UsageError
from nas.model import load_module
from nas.train import (
    Diverged,
    Epoch,
    Member,
    OutOfMemory,
    Population,
    Recipe,
    padding_of,
    population_step,
    soap,
    train,
    train_population,
)

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs are replayed on one alone")

PLANS = {
    "pools, bias, ReLU before norm, C G": ["6 M s8b 8k1r M C G", "4 M s10b 5k1r M C G"],
    "residuals, a dense layer after G": ["8v 8+ s8+ G 6k1 Cb", "5v 5+ s5+ G 9k1 Cb"],
    "strides, no norm, other kernels": ["8k5/2bn 8 C G", "4k5/2bn 9 C G"],
}
QUICK = Recipe(epochs=3, batch_size=16, bn_recalibration_images=48)


def arch(text):
    return Architecture.parse(text, input_shape=(1, 16, 16), num_classes=4)


@pytest.fixture(scope="module")
def small():
    whole = toys.part(toys.synthetic(), 100)  # of which the last batch has four
    validation = Split(whole.validation.images[:60], whole.validation.labels[:60])
    return dataclasses.replace(whole, validation=validation)


@pytest.fixture
def double(monkeypatch):
    """All in float64, from the images on."""
    for module in ("augmentation", "dataset"):
        monkeypatch.setattr(f"nas.data.{module}.unit_scale", lambda images: images.double() / 255)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def often(monkeypatch):
    """The bases are renewed after every tenth step.

    Sooner, the moments of the widest matrix have no full rank yet, and rounding alone decides on the rest of its basis:
    a training whose weights begin 1e-15 apart from another's then ends 0.1 apart.
    """
    for module in (soap, population_step):
        monkeypatch.setattr(module, "PRECONDITION_FREQUENCY", 10)


def member(small, text, recipe=QUICK, **given):
    return Member(architecture=arch(text), training=small, evaluation=small.validation, recipe=recipe, **given)


def alone(each):
    return train(
        each.architecture, each.training, each.evaluation, each.recipe, seed=each.seed,
        teacher_logits=each.teacher_logits, backend="torch",
    )  # fmt: skip


def check(members, runs, tolerance=1e-8):
    """A weight without a gradient but for rounding (a bias before a norm) moves by that over 1e-8: so 1e-6."""
    for each, run in zip(members, runs, strict=True):
        own = alone(each)
        assert run.state_dict.keys() == own.state_dict.keys()
        torch.testing.assert_close(run.state_dict, own.state_dict, rtol=tolerance, atol=100 * tolerance)
        assert len(run.epochs) == len(own.epochs)
        for epoch, other in zip(run.epochs, own.epochs, strict=True):
            assert (epoch.number, epoch.count, epoch.correct) == (other.number, other.count, other.correct)
            assert epoch.train_accuracy == pytest.approx(other.train_accuracy)
            assert (epoch.loss, epoch.train_loss) == pytest.approx((other.loss, other.train_loss), rel=tolerance)


def padding(pack):
    """The elements of a pack's flat tensors that are no network's."""
    return pack._owner == len(pack.members)


@pytest.mark.parametrize("texts", PLANS.values(), ids=PLANS.keys())
def test_every_block_trains_as_alone(small, double, often, texts):
    members = [member(small, text, seed=seed) for seed, text in enumerate([*texts, texts[0]])]
    check(members, train_population(members))


@pytest.mark.parametrize(
    "changes",
    [
        {"label_smoothing": 0.1, "weight_decay": 0.5},
        {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "ema_horizon": 0.0},
        {"warmup_fraction": 0.5, "peak_lr": 0.005, "batch_size": 25},
    ],
)
def test_every_number_of_the_recipe_is_each_networks_own(small, double, often, changes):
    """Beside members of the usual recipe, with which it may not step together."""
    members = [
        member(small, "5 M s6 C G", dataclasses.replace(QUICK, **changes)), member(small, "3 M s8 C G"),
        member(small, "7 M s4 C G", dataclasses.replace(QUICK, **changes), seed=1),
    ]  # fmt: skip
    check(members, train_population(members))


def test_students_share_their_teachers_logits_or_have_their_own(small, double, often):
    """`train` rounds the teacher's probabilities to float32."""
    recipe = dataclasses.replace(QUICK, teacher="8 M 8 G C", distill_weight=0.7)
    hot = dataclasses.replace(recipe, temperature=5.0, distill_weight=1.0)
    logits = [
        torch.randn(3, len(small.train), 4, generator=torch.Generator().manual_seed(seed)).half() for seed in (1, 2)
    ]
    members = [
        member(small, "5 M s6 C G", recipe, teacher_logits=logits[0]),
        member(small, "3 M s8 C G", hot, teacher_logits=logits[0]),
        member(small, "3 M s8 C G", recipe, teacher_logits=logits[1], seed=2),
    ]  # fmt: skip
    check(members, train_population(members), tolerance=1e-5)


def test_it_holds_over_hundreds_of_steps_and_padding_stays_zero(small, double):
    """210 steps, seven renewals of the bases; two plans, rates and seeds of their own."""
    recipe = dataclasses.replace(QUICK, epochs=30)
    texts = ["6 M s8r G C", "4 M s9r G C", "5v 5+ C G"]
    members = [
        member(small, text, dataclasses.replace(recipe, peak_lr=0.02 / (seed + 1)), seed=seed)
        for seed, text in enumerate(texts)
    ]  # fmt: skip
    population = Population()
    for each in members:
        population.add(each)
    for _ in range(30):
        population.train_epoch()
    (pack,) = population._packs
    assert len(pack.networks) == 2
    assert padding(pack).sum() > 50
    for flat in (pack._flat, pack._average, pack._gradient):
        assert flat[padding(pack)].count_nonzero() == 0
    check(members, [population.remove(each) for each in members], tolerance=1e-6)


def test_seeds_of_one_network_are_a_population_in_float32_too(small):
    """Rounding grows with every step, so that few are compared."""
    members = [member(small, "6 M s8 G C", seed=seed) for seed in range(3)]
    runs = train_population(members)
    assert len({run.epochs[-1].loss for run in runs}) == 3
    for each, run in zip(members, runs, strict=True):
        own = alone(each)
        assert run.epochs[-1].loss == pytest.approx(own.epochs[-1].loss, rel=1e-3)
        assert run.epochs[-1].train_loss == pytest.approx(own.epochs[-1].train_loss, rel=1e-3)


def test_networks_join_and_leave_and_those_that_stay_are_packed_anew(small, double, often):
    first, leaves, joins = (
        member(small, text, seed=seed) for seed, text in enumerate(["5 M s6 C G"] * 2 + ["8 M s3 C G"])
    )
    population = Population()
    population.add(first)
    population.add(leaves)
    population.train_epoch()
    left = population.remove(leaves, stopped=True)
    population.add(joins)
    for _ in range(2):
        population.train_epoch()
        assert [len(pack.members) for pack in population._packs] == [2]
    run = population.remove(first)
    population.train_epoch()
    check([first, joins], [run, population.remove(joins)])
    assert left.stopped
    assert (run.stopped, run.backend) == (False, "population")
    assert left.epochs[0].loss == pytest.approx(alone(leaves).epochs[0].loss)
    assert population.members == []


def test_a_member_may_stop(small):
    members = [member(small, "5 M s6 C G", seed=seed) for seed in range(2)]
    stops, stays = train_population(members, on_epoch=lambda each, epoch: each is members[0])
    assert (stops.stopped, len(stops.epochs)) == (True, 1)
    assert (stays.stopped, len(stays.epochs)) == (False, 3)


def test_what_does_not_fit_in_memory_is_trained_in_parts(small, double, often, monkeypatch, capsys):
    """The third epoch's middle is where memory is first short: that epoch is trained once more, by two and one."""
    members = [member(small, text, seed=seed) for seed, text in enumerate(["5 M s6 C G", "8 M s3 C G", "4v 4+ C G"])]
    step, population = population_step.Pack._step, Population()
    for each in members:
        population.add(each)

    def short(pack, count):
        if len(pack.members) > 2 and len(pack.members[0].epochs) == 2 and count < 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        step(pack, count)

    monkeypatch.setattr(population_step.Pack, "_step", short)
    for _ in range(3):
        population.train_epoch()
    assert "Out of memory: 2 networks are trained at once from here on" in capsys.readouterr().err
    monkeypatch.undo()
    with pytest.MonkeyPatch.context() as patch:  # `undo` took the fixtures' changes back as well
        for module in (soap, population_step):
            patch.setattr(module, "PRECONDITION_FREQUENCY", 10)
        for module in ("augmentation", "dataset"):
            patch.setattr(f"nas.data.{module}.unit_scale", lambda images: images.double() / 255)
        check(members, [population.remove(each) for each in members])


def test_one_that_never_fits_leaves_with_its_error(small, monkeypatch):
    def never(pack, count):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(population_step.Pack, "_step", never)
    words = []
    population = Population(on_backoff=words.append)
    for seed in range(3):
        population.add(member(small, "5 M s6 C G", seed=seed))
    results = population.train_epoch()
    assert [type(result) for _, result in results] == [OutOfMemory] * 3
    assert words == [2, 1]
    assert population.members == []


def test_one_that_diverges_does_not_touch_its_neighbours(small, double, often):
    wild = dataclasses.replace(QUICK, peak_lr=10.0)
    members = [member(small, "6 M s5 C G", wild), member(small, "5 M s6 C G"), member(small, "5v 5+ C G")]
    with pytest.MonkeyPatch.context() as patch:
        began = Member.begin

        def broken(each, *given):
            began(each, *given)
            if each is members[0]:
                each.parameters[0] = torch.nan

        patch.setattr(Member, "begin", broken)
        runs = train_population(members)
    assert isinstance(runs[0], Diverged)
    assert "the loss is nan in epoch 1: lower peak_lr (10.0)" in str(runs[0])
    check(members[1:], runs[1:])


def test_what_does_not_belong_together_is_refused(small):
    population = Population()
    with pytest.raises(UsageError, match="come together: one is missing"):
        population.add(member(small, "5 G C", dataclasses.replace(QUICK, teacher="8 G C")))
    wrong = member(small, "5 G C", dataclasses.replace(QUICK, teacher="8 G C"), teacher_logits=torch.zeros(1, 2, 3))
    with pytest.raises(UsageError, match="logits are"):
        population.add(wrong)
    with pytest.raises(ValueError, match="does not take the images and classes of synthetic"):
        population.add(
            Member(architecture=Architecture.parse("5 G C"), training=small, evaluation=small.train, recipe=QUICK)
        )
    assert population.members == []
    assert population.train_epoch() == []


def test_the_weights_of_a_run_make_the_logits_that_it_was_scored_with(small):
    (run,) = train_population([member(small, "6 M s8b 8k1r M C G")])
    module = load_module(arch("6 M s8b 8k1r M C G"), run.state_dict)
    validation = small.validation
    with torch.no_grad():
        hits = module(small.normalization.apply(validation.images)).argmax(1) == validation.labels
    assert int(hits.sum()) == run.epochs[-1].correct


def test_padding_is_stated(small):
    members = [member(small, "4 M 8 G C"), member(small, "8 M 4 G C"), member(small, "6v G C")]
    population = Population()
    for each in members:
        population.add(each)
    found = padding_of(members)
    assert found.plans == 2
    assert found.macs == sum(each.architecture.macs for each in members)
    widest = arch("8 M 8 G C").macs
    assert found.padded_macs == 2 * widest + members[2].architecture.macs
    sizes = [each.activations for each in (arch("8 M 8 G C"), members[2].architecture)]
    assert (found.activations, found.padded_activations) == (
        sum(each.architecture.activations for each in members), 2 * sizes[0] + sizes[1]
    )  # fmt: skip
    assert found.padded_soap_macs > found.soap_macs > 0


@cuda
def test_on_a_cuda_device_graphs_come_to_the_same(small):
    """Several plans in one graph, side by side, several renewals of the bases, and a repacking."""
    there = dataclasses.replace(small, train=small.train.to("cuda"), validation=small.validation.to("cuda"))
    texts = ["6 M s8b 8k1r M C G", "4 M s10b 5k1r M C G", "8v 8+ C G", "5n/2 6 G C"]
    recipe = dataclasses.replace(QUICK, epochs=10)
    members = [member(there, text, recipe, seed=seed) for seed, text in enumerate(texts)]
    runs = train_population(members, device="cuda", on_epoch=lambda each, epoch: each.seed == 1 and epoch.number == 5)
    for each, run in zip(members, runs, strict=True):
        own = train(each.architecture, there, there.validation, recipe, seed=each.seed, device="cuda")
        for epoch, other in zip(run.epochs[:3], own.epochs, strict=False):
            assert isinstance(epoch, Epoch)
            assert epoch.train_loss == pytest.approx(other.train_loss, rel=0.02)
