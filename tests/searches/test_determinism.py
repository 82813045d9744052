"""The same seed, device and versions: the same bits, by networks that are trained for real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import toys
from laws import trials
from safetensors.torch import load_file

from nas import kernels
from nas.workers import LocalPool


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["torch", "kernels"])
def test_the_same_seed_gives_the_same_search(backend):
    if backend == "kernels" and (reason := kernels.unsuited()):
        pytest.skip(reason)
    training, found = toys.part(toys.synthetic(), 260), []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        store = toys.open_study(name)
        with LocalPool(training, training.validation, backend=backend) as pool:
            result = toys.run(pool, store=store, seed=seed, trials=3, finalists=2, finalist_seeds=2)
        values = [
            (
                trial.number,
                trial.value,
                trial.user_attrs["schedule"],
                trial.user_attrs["loss"],
                trial.intermediate_values,
            )
            for trial in trials(store)
        ]
        found.append((values, result.finalists, load_file(result.folder / "weights.safetensors")))
    (values, finalists, weights), (values2, finalists2, weights2), (values3, *_) = found
    assert values == values2
    assert finalists == finalists2
    assert weights.keys() == weights2.keys()
    assert all(weights[key].equal(weights2[key]) for key in weights)
    assert [value[2] for value in values] != [value[2] for value in values3]
