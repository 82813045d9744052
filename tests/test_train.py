"""The recipe and the training loop: its schedule, its average, its failures, its bits."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st

from nas import data, kernels, train
from nas.architecture import Architecture
from nas.errors import NasError, UsageError
from nas.model import build
from nas.train import Diverged, Recipe

ARCHITECTURE = Architecture.parse("6 M s8b 8k1r M C G", input_shape=(1, 16, 16), num_classes=4)
BACKENDS = [
    "torch",
    pytest.param("kernels", marks=pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))),
]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="module")
def training():
    return toys.part(toys.synthetic(), 384)


def go(training, recipe, **options):
    return train.train(ARCHITECTURE, training, training.validation, recipe, backend="torch", **options)


def same(a, b):
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def distance(a, b):
    return math.sqrt(sum(float((a[k] - b[k]).square().sum()) for k in a if a[k].is_floating_point()))


# --- the teacher ------------------------------------------------------------------------------------------------------

TAUGHT = Recipe(epochs=2, batch_size=64, teacher="8 M 8 G C", soft_share=1.0)


def lesson_of(training, recipe=TAUGHT, *, seed=5, **where):
    weights = build(train.teacher_of(recipe, ARCHITECTURE), seed=seed).state_dict()
    return torch.stack(
        [train.teach(recipe, weights, ARCHITECTURE, training, epoch, **where) for epoch in range(recipe.epochs)]
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_student_of_soft_targets_alone_never_uses_its_labels(training, backend):
    """Its loss is of the labels, and its weights are of the teacher: other labels, the same weights."""
    options = {"lesson": lesson_of(training, backend=backend), "backend": backend}
    labels = (training.train.labels + 1) % 4
    other = dataclasses.replace(training, train=dataclasses.replace(training.train, labels=labels))
    one, two = (train.train(ARCHITECTURE, each, each.validation, TAUGHT, **options) for each in (training, other))
    assert same(one.state_dict, two.state_dict)
    assert one.epochs[-1].train_loss != two.epochs[-1].train_loss
    taught = train.train(
        ARCHITECTURE, training, training.validation, TAUGHT, lesson=lesson_of(training, seed=6, backend=backend),
        backend=backend,
    )  # fmt: skip
    assert not same(one.state_dict, taught.state_dict)


@pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))
def test_both_backends_learn_the_same_of_a_teacher(training):
    recipe = dataclasses.replace(TAUGHT, epochs=3, peak_rate=0.01, soft_share=0.7)
    ours, theirs = (
        train.train(
            ARCHITECTURE, training, training.validation, recipe,
            lesson=lesson_of(training, recipe, backend=backend), backend=backend,
        ).epochs
        for backend in ("kernels", "torch")
    )  # fmt: skip
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=0.02)
        assert a.loss == pytest.approx(b.loss, rel=0.02)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_lesson_is_of_the_images_as_the_student_sees_them(training, backend, monkeypatch):
    """Logits of the very batches, whatever the student's seed and order; other maps in each epoch."""
    recipe = dataclasses.replace(TAUGHT, epochs=2)
    lesson = lesson_of(training, recipe, backend=backend)
    assert (lesson.shape, lesson.dtype) == ((2, 384, 4), torch.float16)
    weights = build(train.teacher_of(recipe, ARCHITECTURE), seed=5).state_dict()
    teacher = build(train.teacher_of(recipe, ARCHITECTURE))
    teacher.load_state_dict(weights)
    teacher.eval()
    kind = train._Kernels if backend == "kernels" else train._Torch
    step, compared = kind.step, []

    def watched(self, images, labels, recipe, soft):
        batch = images if backend == "torch" else images.permute(3, 0, 1, 2)
        with torch.no_grad():
            logits = teacher(batch)
        torch.testing.assert_close(soft, (logits / recipe.temperature).softmax(1), rtol=0.01, atol=0.002)
        compared.append(logits)
        return step(self, images, labels, recipe, soft)

    monkeypatch.setattr(kind, "step", watched)
    train.train(
        ARCHITECTURE, training, training.validation, recipe, seed=3, lesson=lesson, backend=backend
    )  # fmt: skip
    assert len(compared) == 2 * 384 // 64
    assert not lesson[0].equal(lesson[1])


def test_a_teacher_is_trained_on_stronger_maps():
    recipe = Recipe(teacher="8 M 8 G C", degrees=8.0, teacher_stretch=1.5)
    alone = train.teacher_recipe(recipe)
    assert (alone.degrees, alone.translate, alone.teacher) == (12.0, recipe.translate * 1.5, None)
    with pytest.raises(UsageError, match="the recipe's scale is a number between"):
        train.teacher_recipe(dataclasses.replace(recipe, scale=0.8))


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_recipe_round_trip_and_unknown_keys():
    recipe = Recipe(epochs=3, degrees=0.0)
    assert Recipe.from_dict(dataclasses.asdict(recipe)) == recipe
    with pytest.raises(UsageError, match="unknown key 'learning_rate' in a recipe"):
        Recipe.from_dict({"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0), ("epochs", 2.5), ("epochs", True), ("batch_size", 1), ("peak_rate", 0.0), ("peak_rate", "high"),
        ("peak_rate", math.nan), ("peak_rate", math.inf), ("warm_up", 1.0), ("weight_decay", -1e-4),
        ("label_smoothing", 1.0), ("average", 1.5), ("settle", -1), ("settle", 0.5), ("degrees", -1),
        ("scale", 1.0), ("shear", None),
    ],
)  # fmt: skip
def test_recipe_refuses_what_is_out_of_range(key, value):
    with pytest.raises(UsageError, match=f"the recipe's {key} is a .*number between"):
        Recipe(**{key: value})


def test_recipe_refuses_an_optimizer_it_does_not_know():
    with pytest.raises(UsageError, match="the recipe's optimizer is soap or adamw, not 'sgd'"):
        Recipe(optimizer="sgd")


def test_recipe_refuses_statistics_of_one_image():
    with pytest.raises(UsageError, match="the recipe's settle is 0 or at least 2 images"):
        Recipe(settle=1)


# --- the schedule and the average -------------------------------------------------------------------------------------


def test_smaller_networks_take_a_higher_rate_up_to_a_limit(training, monkeypatch):
    recipe = Recipe(epochs=1, peak_rate=0.01)
    rates = {size: train.peak_rate(recipe, size) for size in (80_000, 8000, 2000, 100)}
    assert rates == pytest.approx({80_000: 0.01, 8000: 0.01, 2000: 0.02, 100: 0.03})
    assert train.peak_rate(dataclasses.replace(recipe, rate_exponent=0.0), 100) == 0.01
    heard = set()

    def rate(recipe, progress):
        heard.add(recipe.peak_rate)
        return 0.001

    monkeypatch.setattr(train, "rate", rate)
    go(training, recipe)
    assert heard == {train.peak_rate(recipe, ARCHITECTURE.num_params)} != {recipe.peak_rate}


def test_rate_is_torchs_one_cycle():
    """Torch counts its steps from the other end, so at a thousand steps the two agree to about a step's change."""
    recipe, steps = Recipe(peak_rate=0.1, warm_up=0.2), 1000
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        assert train.rate(recipe, (step + 1) / steps) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-3)
        optimizer.step()
        if step + 1 < steps:
            cycle.step()


@given(st.floats(0, 0.9), st.integers(1, 500))
def test_rate_rises_then_falls_to_nearly_zero(warm_up, steps):
    recipe = Recipe(warm_up=warm_up, peak_rate=1.0)
    rates = [train.rate(recipe, (step + 1) / steps) for step in range(steps)]
    assert all(0 < rate <= 1 + 1e-5 for rate in rates)
    assert rates[-1] < 1e-5
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@given(st.floats(0, 1), st.integers(1, 10_000))
def test_decay_ramps_up_to_its_horizon(average, steps):
    recipe = Recipe(average=average)
    values = [train.decay(recipe, step, steps) for step in range(1, steps + 1, max(1, steps // 50))]
    assert all(0 <= value < 1 for value in values)
    assert values == sorted(values)
    assert values[0] <= 0.1
    assert values[-1] <= 1 - 1 / max(1, average * steps)


def test_the_average_is_near_the_moving_weights_after_a_few_steps(training):
    """With no average the result is the moving weights; a long one must not leave it at the initial ones."""
    initial = build(ARCHITECTURE, seed=0).state_dict()
    recipe = Recipe(epochs=2, batch_size=64, peak_rate=0.01)
    moving = go(training, dataclasses.replace(recipe, average=0.0)).state_dict
    averaged = go(training, dataclasses.replace(recipe, average=1.0)).state_dict
    assert distance(averaged, moving) < 0.5 * distance(averaged, initial)
    assert not same(averaged, moving)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_norms_have_the_statistics_of_images_as_they_are(training, backend):
    """Of the first norm they are those of the first convolution's output, computed here from the weights."""
    recipe = Recipe(epochs=1, degrees=90, translate=6, settle=384)
    moved, settled = (
        train.train(ARCHITECTURE, training, training.validation, dataclasses.replace(recipe, settle=count),
                    backend=backend).state_dict
        for count in (0, 384)
    )  # fmt: skip
    images = data.normalise(training.train.images, training.mean, training.std)
    with torch.no_grad():
        out = build(ARCHITECTURE)[0].requires_grad_(False)
        out.weight.copy_(settled["0.weight"])
        maps = out(images)
    assert settled["0.weight"].equal(moved["0.weight"])
    torch.testing.assert_close(settled["1.running_mean"], maps.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(settled["1.running_var"], maps.var((0, 2, 3)), rtol=2e-2, atol=1e-4)
    assert not torch.allclose(moved["1.running_var"], maps.var((0, 2, 3)), rtol=2e-2, atol=1e-4)


def test_the_flat_optimizer_is_adamw_on_the_model_with_decay_on_convolution_weights_alone():
    """Three steps with given gradients, against torch's AdamW on a model's own parameters."""
    recipe = Recipe(optimizer="adamw", weight_decay=0.5)
    model, reference = build(ARCHITECTURE, seed=0), build(ARCHITECTURE, seed=0)
    moving, gradient, bounds = train._flatten(model)
    flat = train._optimizer(model, moving, gradient, bounds, recipe)
    plain = torch.optim.AdamW(
        [
            {"params": [p for p in reference.parameters() if p.ndim == 4], "weight_decay": 0.5},
            {"params": [p for p in reference.parameters() if p.ndim != 4], "weight_decay": 0.0},
        ],
        lr=recipe.peak_rate,
    )
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            drawn = torch.randn(ours.shape, generator=generator)
            ours.grad.copy_(drawn)
            theirs.grad = drawn
        flat.step()
        plain.step()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert moving[bounds[1] :].tolist() == [value for b in model.buffers() if b.ndim for value in b.flatten().tolist()]


# --- the loop ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_learns_and_scores_as_evaluate_does(training, backend):
    recipe = Recipe(epochs=6, batch_size=32, degrees=0, shear=0, scale=0)
    run = train.train(ARCHITECTURE, training, training.validation, recipe, backend=backend)
    assert run.epochs[-1].accuracy > 60  # of four classes
    assert run.epochs[-1].train_loss < run.epochs[0].train_loss
    assert [epoch.number for epoch in run.epochs] == [1, 2, 3, 4, 5, 6]
    assert run.last(2) == pytest.approx((run.epochs[-1].accuracy + run.epochs[-2].accuracy) / 2)
    assert run.backend == backend
    assert not run.stopped
    loss, correct = train.evaluate(ARCHITECTURE, run.state_dict, training, training.validation, backend=backend)
    assert (loss, correct) == (pytest.approx(run.epochs[-1].loss), run.epochs[-1].correct)


@pytest.mark.skipif(kernels.unsuited() is not None, reason=str(kernels.unsuited()))
def test_both_backends_take_the_same_way(training):
    recipe = Recipe(epochs=3, optimizer="adamw", batch_size=64, peak_rate=0.01, label_smoothing=0.1)
    ours, theirs = (
        train.train(ARCHITECTURE, training, training.validation, recipe, backend=backend).epochs
        for backend in ("kernels", "torch")
    )
    for a, b in zip(ours, theirs, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, rel=0.02)
        assert a.loss == pytest.approx(b.loss, rel=0.02)
        assert abs(a.correct - b.correct) <= 0.03 * a.count


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_seed_gives_the_same_bits(training, backend):
    runs = [
        train.train(
            ARCHITECTURE, training, training.validation, Recipe(epochs=2, batch_size=64), seed=seed, backend=backend
        )
        for seed in (1, 1, 2)
    ]
    assert same(runs[0].state_dict, runs[1].state_dict)
    assert [dataclasses.replace(epoch, seconds=0) for epoch in runs[0].epochs] == [
        dataclasses.replace(epoch, seconds=0) for epoch in runs[1].epochs
    ]
    assert not same(runs[0].state_dict, runs[2].state_dict)


@pytest.mark.parametrize("backend", BACKENDS)
def test_kernels_train_on_one_thread_of_torch(training, backend):
    """Others only wait for each other there; whatever ends a training, the caller has its own number again."""
    torch.set_num_threads(2)
    heard = []

    def on_epoch(epoch):
        heard.append(torch.get_num_threads())
        if len(heard) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(ARCHITECTURE, training, training.validation, Recipe(epochs=2), backend=backend, on_epoch=on_epoch)
    assert heard == [1 if backend == "kernels" else 2] * 2
    assert torch.get_num_threads() == 2


def test_it_leaves_the_global_generator_alone(training):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    go(training, Recipe(epochs=1))
    assert torch.get_rng_state().equal(before)


def test_a_last_batch_of_one_image_is_left_out():
    steps = []
    run = go(toys.part(toys.synthetic(), 129), Recipe(epochs=2, batch_size=128), on_step=lambda *at: steps.append(at))
    assert steps == [(1, 2), (2, 2)]
    assert len(run.epochs) == 2
    steps.clear()
    go(toys.part(toys.synthetic(), 130), Recipe(epochs=1, batch_size=128), on_step=lambda *at: steps.append(at))
    assert steps == [(1, 2), (2, 2)]


def test_on_epoch_stops_it(training):
    heard = []
    run = go(training, Recipe(epochs=5), on_epoch=lambda epoch: heard.append(epoch.number) or epoch.number == 2)
    assert heard == [1, 2]
    assert run.stopped
    assert len(run.epochs) == 2
    assert not go(training, Recipe(epochs=1), on_epoch=lambda epoch: True).stopped  # it was over anyway


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_that_is_not_finite_is_a_known_failure(training, backend):
    broken = dataclasses.replace(training, mean=(math.nan,))
    with pytest.raises(Diverged, match="the loss is nan in epoch 1") as caught:
        train.train(ARCHITECTURE, broken, training.validation, Recipe(epochs=1), backend=backend)
    assert isinstance(caught.value, NasError)


def test_an_epoch_has_a_map_for_each_image(training):
    assert train._maps(Recipe(), training, torch.Generator()).shape == (384, 2, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_augmentation_draws_no_maps(training, backend, monkeypatch):
    monkeypatch.setattr(data, "random_affine", lambda *_, **__: pytest.fail("maps were drawn"))
    still = Recipe(epochs=1, degrees=0, translate=0, scale=0, shear=0)
    assert len(train.train(ARCHITECTURE, training, training.validation, still, backend=backend).epochs) == 1
    assert not train._moves(still)
    assert train._moves(Recipe(degrees=0, translate=0, scale=0))


# --- where it runs ----------------------------------------------------------------------------------------------------


def test_backends_and_devices(monkeypatch):
    monkeypatch.setattr(kernels, "unsuited", lambda: None)
    assert train.choose_backend("cpu", "auto") == ("kernels", None)
    assert train.choose_backend("cpu", "torch") == ("torch", None)
    name, reason = train.choose_backend("cuda", "auto")
    assert name == "torch"
    assert "not on cuda" in reason
    with pytest.raises(UsageError, match="--backend kernels"):
        train.choose_backend("mps", "kernels")
    monkeypatch.setattr(kernels, "unsuited", lambda: "no such processor")
    assert train.choose_backend("cpu", "auto") == ("torch", "no such processor")
    assert train.choose_device("cpu") == "cpu"
    for there, chosen in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert train.choose_device("auto") == chosen
    with pytest.raises(UsageError, match="--device nonsense"):
        train.choose_device("nonsense")


class _ElsewhereGenerator(torch.Generator):
    """Says that it is the meta device's, which has none."""

    device = torch.device("meta")

    def __new__(cls, device="cpu"):
        if torch.device(device).type == "cpu":  # the maps of a lesson
            return cls.__base__()
        assert torch.device(device) == cls.device
        return super().__new__(cls)


@pytest.fixture
def elsewhere(monkeypatch):
    """The meta device stands in for a GPU: operations that mix it with the CPU are errors, as there."""
    monkeypatch.setattr(torch, "Generator", _ElsewhereGenerator)
    unfused = torch.optim.AdamW  # the fused one knows the devices it runs on
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, lr, fused: unfused(groups, lr=lr, foreach=fused))
    for kind, value in (("__float__", 0.5), ("__int__", 1)):  # what the loop reads back; meta tensors hold nothing
        monkeypatch.setattr(torch.Tensor, kind, lambda self, value=value: value)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype))
    return "meta"


@pytest.mark.parametrize("recipe", [Recipe(epochs=2, batch_size=64), TAUGHT, Recipe(epochs=1, optimizer="adamw")])
@pytest.mark.parametrize("stray", ["", "evaluation", "train"])
def test_all_of_a_training_stays_on_its_device(training, elsewhere, recipe, stray):
    lesson = lesson_of(training) if recipe.teacher else None
    splits = {"train": training.train, "evaluation": training.validation}
    there = {name: part if name == stray else part.to(elsewhere) for name, part in splits.items()}
    moved = dataclasses.replace(training, train=there["train"], validation=None)

    def go():
        return train.train(ARCHITECTURE, moved, there["evaluation"], recipe, lesson=lesson, device=elsewhere)

    if stray:
        with pytest.raises(RuntimeError, match=r"device|meta"):
            go()
    else:
        assert go().backend == "torch (the kernels run on a CPU, not on meta)"
