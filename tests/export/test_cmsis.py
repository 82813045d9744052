"""C code that calls CMSIS-NN: its arithmetic is known exactly, and its memory is laid out without overlap."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import torch
from cortex import PROCESSORS, compiler, run
from deployed import ARCHITECTURES, integer_network, mnist, need, random_images, random_network, record
from hypothesis import given, settings
from strategies import architectures

from nas.architecture import Architecture
from nas.errors import StorageError, UsageError
from nas.export.c import write_c
from nas.export.c_check import check_c, find_cmsis
from nas.export.c_cmsis import _places, cmsis_network
from nas.export.integer import IntAdd, IntegerNetwork


@pytest.fixture
def library() -> Path:
    if "NAS_CMSIS_NN" not in os.environ:
        pytest.skip("no NAS_CMSIS_NN: name the folder of CMSIS-NN, such as that in PyPI's bakenn, vendor/cmsis_nn")
    found = find_cmsis()
    assert found is not None
    return found


def integer(text: str, count: int = 30) -> tuple[IntegerNetwork, torch.Tensor]:
    architecture = Architecture.parse(text)
    images = random_images(architecture, count)
    return integer_network(random_network(architecture), images), images


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_the_library_gives_the_very_logits(text: str, library: Path, tmp_path: Path) -> None:
    network, images = integer(text)
    there = cmsis_network(network)
    write_c(tmp_path, random_network(Architecture.parse(text)), images, there)
    assert check_c(tmp_path, images, there.run(images), need("gcc", "gcc"), library) == 0


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.name)
def test_a_record_gives_the_very_logits_on_cortex_m(processor, library: Path, mnist_dir: Path, tmp_path: Path) -> None:
    network, (images, _) = record(1000), mnist(mnist_dir, "train", 60)
    write_c(tmp_path, network, images[50:], cmsis_network(integer_network(network, images[:50])))
    compiler(processor)
    core = library.parent / "cmsis_core" / "Include"
    wrong, instructions = run(tmp_path, processor, more=[f"-I{library / 'Include'}", f"-I{core}", "-w",
                                                         *map(str, sorted(library.glob("Source/*/*.c")))])  # fmt: skip
    assert wrong == 0
    assert instructions > network.architecture.macs


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_rounding_moves_a_logit_by_little(text: str) -> None:
    network, images = integer(text)
    ours, theirs = network.run(images).double(), cmsis_network(network).run(images).double()
    assert (ours - theirs).abs().max() <= 0.2 * ours.std() + 1


@settings(max_examples=30)
@given(architectures(max_side=12))
def test_maps_that_are_alive_together_do_not_overlap(architecture: Architecture) -> None:
    network = integer_network(random_network(architecture), random_images(architecture, 8))
    operations = network.operations[:-1]
    places, size = _places(operations, network)
    shapes = [network.input_shape, *(operation.output_shape for operation in operations)]
    spans = [(at, at + s[0] * s[1] * s[2]) for at, s in zip(places, shapes, strict=True)]
    assert max(end for _, end in spans) == size
    for index, operation in enumerate(operations):
        alive = {index, index + 1} | ({operation.skip} if isinstance(operation, IntAdd) else set())
        later = [each.skip for each in operations[index:] if isinstance(each, IntAdd) and each.skip <= index]
        ordered = sorted(spans[each] for each in alive | set(later))
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(ordered))


def test_a_folder_without_the_library_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("NAS_CMSIS_NN", str(tmp_path))
    with pytest.raises(StorageError, match=r"has no Include/arm_nnfunctions\.h"):
        find_cmsis()
    monkeypatch.delenv("NAS_CMSIS_NN")
    assert find_cmsis() is None


def test_a_sum_that_would_leave_32_bits_is_refused() -> None:
    network, _ = integer(ARCHITECTURES[0])
    first = network.operations[0]
    object.__setattr__(first, "bias", first.bias + 2**30)
    object.__setattr__(first, "weight_scale", first.weight_scale * 2**12)
    with pytest.raises(UsageError, match="leave --cmsis-nn out"):
        cmsis_network(network)
