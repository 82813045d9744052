"""Where a training runs, and how it leaves the caller's process."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys

import pytest
import torch
from small import ARCHITECTURE, BACKENDS, DISTILLED, network, teacher_logits

from nas import kernels, train
from nas.errors import NasError, UsageError
from nas.model import build
from nas.train import OutOfMemory, Recipe


def test_backends_and_devices(monkeypatch):
    monkeypatch.setattr("nas.train.backends.unsuited", lambda: None)
    assert train.choose_backend("cpu", "auto") == ("kernels", None)
    assert train.choose_backend("cpu", "torch") == ("torch", None)
    name, reason = train.choose_backend("cuda", "auto")
    assert name == "torch"
    assert "not on cuda" in reason
    with pytest.raises(UsageError, match="--backend kernels"):
        train.choose_backend("mps", "kernels")
    monkeypatch.setattr("nas.train.backends.unsuited", lambda: "no such processor")
    assert train.choose_backend("cpu", "auto") == ("torch", "no such processor")
    assert train.choose_device("cpu") == "cpu"
    for there, chosen in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert train.choose_device("auto") == chosen


@pytest.mark.parametrize("device", ["nonsense", "meta", "cpu:1", "lazy", "vulkan", "mkldnn", "cuda:", "cuda:x", ""])
def test_a_device_that_cannot_train_is_refused_in_one_line(device):
    """Torch makes tensors on `meta`, and computes nothing there."""
    with pytest.raises(UsageError, match=f"^--device {device} is none to train on: use auto, cpu, cuda") as caught:
        train.choose_device(device)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "xpu", "xpu:3"])
def test_an_accelerator_is_taken_where_it_is_there(device, monkeypatch):
    made = []
    monkeypatch.setattr(torch, "zeros", lambda *_, device: made.append(device))
    assert train.choose_device(device) == device
    assert made == [device]

    def fails(*_, device):
        raise RuntimeError(f"no {device}\nand a long explanation")

    monkeypatch.setattr(torch, "zeros", fails)
    with pytest.raises(UsageError, match=f"--device {device} is not to be had here .no {device}.: use auto, cpu or"):
        train.choose_device(device)


# --- a good guest -----------------------------------------------------------------------------------------------------


def flushes():
    """True where this thread flushes denormals: Python's own floats tell."""
    smallest = float.fromhex("0x1p-1074")
    return smallest * 1.0 == 0.0


@pytest.fixture(params=[False, True], ids=["", "flushing before"])
def flushing(request):
    torch.set_flush_denormal(request.param)
    yield request.param
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_leaves_its_caller_as_it_was(training, backend, flushing):
    """Denormals, the number of threads and the random state, after each of the functions, and after failures."""
    if backend == "kernels" and not flushing:
        kernels.compile_all()
        torch.set_flush_denormal(flushing)
    torch.set_num_threads(2)
    torch.manual_seed(5)
    before, inside = torch.get_rng_state(), []
    options = {"backend": backend}

    def left():
        assert (flushes(), torch.get_num_threads()) == (flushing, 2)
        assert torch.get_rng_state().equal(before)
        return True

    run = train.train(
        ARCHITECTURE, training, training.validation, Recipe(epochs=1), **options,
        on_epoch=lambda epoch: inside.append(flushes()),
    )  # fmt: skip
    assert left()
    given = network(training, run.state_dict)
    train.evaluate(given, training.validation, **options)
    assert left()
    train.correct_mask(given, training.validation, **options)
    assert left()
    given.predict(training.validation.images)
    assert left()
    teacher_logits(training, **options)
    assert left()

    def interrupted(*_):
        inside.append(flushes())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(
            ARCHITECTURE, training, training.validation, Recipe(epochs=1), **options, on_step=interrupted
        )  # fmt: skip
    assert left()
    assert inside == [True, True]


def test_torchs_other_threads_do_not_flush_denormals_afterwards():
    """OpenMP's threads have the mode of the thread that starts them, for good: in a process where none is started."""
    code = (
        "import torch; torch.set_num_threads(4)\n"
        "from nas.train import cpu_math_mode\n"
        "with cpu_math_mode():\n"
        "    torch.ones(1 << 20).mul(1.0)\n"
        "flushed = torch.full((1 << 20,), 1e-40).mul(1.0).view(torch.int32) == 0\n"
        "assert not flushed.any(), flushed.view(4, -1).sum(1).tolist()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train", "evaluate", "correct_mask", "compute_teacher_logits"])
def test_a_network_too_large_for_memory_is_a_known_failure(training, name, monkeypatch):
    """Of torch's own error for a tensor past what a process can address, which no system promises."""
    for module, make in (("nas.train.loop", "build"), ("nas.train.evaluate", "load_module")):
        monkeypatch.setattr(importlib.import_module(module), make, lambda *_, **__: torch.empty(10**14))
    given = network(training, {})
    calls = {
        "train": (ARCHITECTURE, training, training.validation, Recipe()),
        "compute_teacher_logits": (DISTILLED, {}, training, 0),
    }
    with pytest.raises(OutOfMemory, match=r"^out of memory: a tensor of 400,000\.0 GB does not fit$") as caught:
        getattr(train, name)(*calls.get(name, (given, training.validation)))
    assert isinstance(caught.value, NasError)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 "
                      "bytes. Error code 12"), "a tensor of 8.0 GB does not fit"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 5000000000 bytes.\nException"),
         "a tensor of 5.0 GB does not fit"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), "Storage size calculation overflowed"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee more"), "CUDA out of memory"),
        (RuntimeError("MPS backend out of memory"), "MPS backend out of memory"),
        (MemoryError(), "a tensor does not fit"),
    ],
)  # fmt: skip
def test_whatever_says_that_memory_does_not_suffice_is_one_line(error, wanted):
    with pytest.raises(OutOfMemory, match=f"^out of memory: {wanted}") as caught, train.memory_errors():
        raise error
    assert len(str(caught.value).splitlines()) == 1


def test_another_error_stays_what_it_is():
    with pytest.raises(RuntimeError, match="shapes"), train.memory_errors():
        raise RuntimeError("shapes do not fit")


# --- another device ---------------------------------------------------------------------------------------------------


class _ElsewhereGenerator(torch.Generator):
    """Says that it is the meta device's, which has none."""

    device = torch.device("meta")

    def __new__(cls, device="cpu"):
        if torch.device(device).type == "cpu":  # the maps that students share
            return cls.__base__()
        assert torch.device(device) == cls.device
        return super().__new__(cls)


@pytest.fixture
def elsewhere(monkeypatch):
    """The meta device stands in for a GPU: operations that mix it with the CPU are errors, as there."""
    monkeypatch.setattr(torch, "Generator", _ElsewhereGenerator)
    for kind, value in (("__float__", 0.5), ("__int__", 1)):  # what the loop reads back; meta tensors hold nothing
        monkeypatch.setattr(torch.Tensor, kind, lambda self, value=value: value)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape, dtype=self.dtype))
    return "meta"


@pytest.mark.parametrize("recipe", [Recipe(epochs=2, batch_size=64), DISTILLED])
@pytest.mark.parametrize("stray", ["", "evaluation", "train"])
def test_all_of_a_training_stays_on_its_device(training, elsewhere, recipe, stray):
    logits = teacher_logits(training) if recipe.teacher else None
    splits = {"train": training.train, "evaluation": training.validation}
    there = {name: part if name == stray else part.to(elsewhere) for name, part in splits.items()}
    moved = dataclasses.replace(training, train=there["train"], validation=None)

    def go():
        return train.train(ARCHITECTURE, moved, there["evaluation"], recipe, teacher_logits=logits, device=elsewhere)

    if stray:
        with pytest.raises(RuntimeError, match=r"device|meta"):
            go()
    else:
        assert go().backend == "torch (the kernels run on a CPU, not on meta)"


def test_an_evaluation_stays_on_its_device(training, elsewhere):
    given = network(training, build(ARCHITECTURE, seed=0).state_dict())
    assert train.evaluate(given, training.validation.to(elsewhere), device=elsewhere).correct == 1
    with pytest.raises(RuntimeError, match=r"device|meta"):
        train.evaluate(given, training.validation, device=elsewhere)
