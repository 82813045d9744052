"""Dropout before the classifier: in the recipe, in training, in the exported source, and nowhere while it is off."""

from __future__ import annotations

import copy
import itertools
import json

import pytest
import torch
import toys
from torch import nn

from nas.architecture import Architecture
from nas.errors import UsageError
from nas.export import source
from nas.model import Dropout, build
from nas.train import Recipe, train

SCHEDULES = ("4v M 6 G C", "4 M s6 s6+ C G", "4v M 6 G 5k1 Cb", "4 i4x2+ M 6 C G", "4 4+ M 4+ Cb G")


def part(schedule: str) -> Architecture:
    return Architecture.parse(schedule, input_shape=(1, 16, 16), num_classes=4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_it_stands_before_the_classifier_and_changes_no_name_and_no_weight(schedule):
    architecture = part(schedule)
    plain, dropped = build(architecture, seed=1), build(architecture, seed=1, dropout=0.3)
    assert list(plain.state_dict()) == list(dropped.state_dict())
    assert all(map(torch.equal, plain.state_dict().values(), dropped.state_dict().values()))
    modules = list(dropped)
    (place,) = [index for index, module in enumerate(modules) if isinstance(module, nn.Dropout)]
    assert modules[place + 1].out_channels == 4
    assert not any(isinstance(module, nn.Conv2d) for after in modules[place + 2 :] for module in after.modules())
    images = torch.rand(3, 1, 16, 16)
    assert torch.equal(dropped.eval()(images), plain.eval()(images))


def test_it_drops_with_its_probability_keeps_the_mean_and_repeats_itself():
    images, before = torch.ones(100, 100), torch.random.get_rng_state()
    module = Dropout(0.25, seed=3)
    first, second = module(images), module(images)
    assert (first == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert first.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(first, second)
    assert torch.equal(Dropout(0.25, seed=3)(images), first)
    assert torch.equal(copy.deepcopy(Dropout(0.25, seed=3))(images), first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(module.eval()(images), images)


def trained(dropout: float, **given):
    training = toys.part(toys.synthetic(), 64)
    recipe = Recipe(epochs=1, dropout=dropout)
    return train(part("4v M 6 G C"), training, training.validation, recipe, **{"backend": "torch", **given}).state_dict


def test_it_changes_a_training_and_repeats_it():
    runs = [trained(0.0), trained(0.5), trained(0.5)]
    same = [all(map(torch.equal, a.values(), b.values())) for a, b in itertools.combinations(runs, 2)]
    assert same == [False, False, True]


@pytest.mark.parametrize("backend", ["kernels", "auto", "population"])
def test_other_backends_refuse_it(backend):
    with pytest.raises(UsageError, match=f"--backend {backend} knows no dropout: give --backend torch"):
        trained(0.5, backend=backend)


@pytest.mark.parametrize("dropout", [-0.1, 0.95, 1, float("nan"), True, "0.5"])
def test_a_bad_probability_is_refused(dropout):
    with pytest.raises(UsageError, match=r"the recipe's dropout is a number between 0 and 0\.9"):
        Recipe(dropout=dropout)


def test_a_recipe_without_it_is_the_one_it_was():
    assert "dropout" not in Recipe().identity
    assert Recipe(dropout=0.2).identity["dropout"] == 0.2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_source_has_it(schedule):
    architecture, inputs = part(schedule), toys.synthetic().normalization
    classes = tuple("abcd")
    assert "ropout" not in source(architecture, inputs, classes)
    space: dict = {"__name__": "model"}
    exec(source(architecture, inputs, classes, dropout=0.3), space)
    net = space["Net"]()
    assert [module.p for module in net.modules() if isinstance(module, nn.Dropout)] == [0.3]
    assert sum(each.numel() for each in net.parameters()) == architecture.num_params
    expected = build(architecture, seed=1)
    net.network.load_state_dict(expected.state_dict())
    images = torch.rand(3, 1, 16, 16)
    normalised = inputs.apply(images)
    assert torch.equal(net.network.eval()(normalised), expected.eval()(normalised))


def test_a_full_run_has_it_in_its_recipe_and_in_its_model(studies_folder):
    tiny = ["train-best", "--architecture", "4v M 6 G C", "--dataset", "synthetic", "--epochs", "1", "--workers", "1"]
    code, out, err = toys.nas(*tiny, "--dropout", "0.2", "--quiet", "--teacher", "none")
    assert code == 0, err
    assert "plain torch trains" in out + err
    folder = studies_folder / out.rsplit("files", 1)[1].strip()
    assert "nn.Dropout(0.2)" in (folder / "model.py").read_text()
    assert json.loads((folder / "result.json").read_text())["recipe"]["dropout"] == 0.2
    code, out, err = toys.nas(*tiny, "--dropout", "0.2", "--backend", "kernels")
    refusal = "--backend kernels knows no dropout: give --backend torch, or leave --dropout away"
    assert (code, err) == (2, f"error: {refusal}\n")
    code, _, err = toys.nas(*tiny, "--dropout", "1")
    assert (code, err) == (2, "error: the recipe's dropout is a number between 0 and 0.9, not 1.0\n")
