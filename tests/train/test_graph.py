"""What becomes one launch on a CUDA device must come to the same as its launches one by one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import toys
from small import ARCHITECTURE, teacher_logits

from nas import train
from nas.train import Recipe, graph, soap
from nas.train.graph import Graph
from nas.train.soap import Soap

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: graphs are replayed on one alone")


def test_elsewhere_it_is_the_function_itself():
    seen = []
    call, function = Graph("cpu"), lambda *numbers: seen.append(numbers) or len(seen)
    assert [call(function, 1.0, 2.5), call(function, 3.0, 4.0)] == [1, 2]
    assert seen == [(1.0, 2.5), (3.0, 4.0)]


@cuda
def test_a_replay_reads_its_numbers_and_what_is_in_its_tensors_now():
    source, total, calls = torch.ones(5, device="cuda"), torch.zeros(5, device="cuda"), []

    def add(times, more):
        calls.append(times)
        total.add_(source * times + more)
        return total * 2

    call = Graph("cuda")
    expected = 0.0
    for step in range(6):
        source.fill_(step)
        expected += step * (step + 0.5) + 1
        assert call(add, step + 0.5, 1.0).tolist() == [2 * expected] * 5
    assert len(calls) == 2  # an ordinary call, and its capture


@cuda
def test_the_optimizer_goes_the_same_way(monkeypatch):
    """As on the CPU, over several renewals of the bases."""
    monkeypatch.setattr(soap, "PRECONDITION_FREQUENCY", 10)
    shapes, generator = [(5, 1, 3, 3), (4, 3, 3, 3), (10, 4, 1, 1)], torch.Generator().manual_seed(3)
    count = 45 + 108 + 40 + 7
    mixing = torch.randn(count, count, generator=generator)
    ends = []
    gradients = [mixing @ torch.randn(count, generator=generator) for _ in range(45)]
    for device in ("cpu", "cuda"):
        flat, gradient = torch.zeros(count, device=device), torch.zeros(count, device=device)
        optimizer = Soap(flat, gradient, shapes, lr=0.01, weight_decay=0.5)
        for step, each in enumerate(gradients):
            optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / 50)
            gradient.copy_(each)
            optimizer.step()
        ends.append(flat.cpu())
    torch.testing.assert_close(ends[1], ends[0], rtol=5e-3, atol=5e-4)


@cuda
@pytest.mark.parametrize("options", [{}, {"teacher": "8 M 8 G C", "distill_weight": 0.7}])
def test_a_training_comes_to_the_same(monkeypatch, options):
    """A last batch of another size, several epochs, and a second network after the first; kernel by kernel as well."""
    recipe = Recipe(epochs=3, batch_size=64, peak_lr=0.01, **options)
    training = toys.part(toys.synthetic(), 400)
    logits = teacher_logits(training, recipe) if recipe.teacher else None
    there = dataclasses.replace(training, train=training.train.to("cuda"), validation=None)

    def go():
        evaluation = training.validation.to("cuda")
        return train.train(ARCHITECTURE, there, evaluation, recipe, seed=3, teacher_logits=logits, device="cuda")

    replayed, again = go(), go()
    monkeypatch.setattr(graph.Graph, "__call__", lambda self, function, *numbers: function(*numbers))
    plain = go()
    for run in (replayed, again):
        assert [epoch.train_loss for epoch in run.epochs] == pytest.approx(
            [epoch.train_loss for epoch in plain.epochs], rel=0.02
        )
        assert run.epochs[-1].loss == pytest.approx(plain.epochs[-1].loss, rel=0.05)
