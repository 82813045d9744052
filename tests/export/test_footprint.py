"""The memory that is counted before training is the memory of the code that the export writes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cortex import PROCESSORS, compiler
from deployed import ARCHITECTURES, integer_network, random_images, random_network
from exports import network
from hypothesis import given, settings
from strategies import architectures

from nas.architecture import Architecture
from nas.budget import BOARDS, find_board, read_boards
from nas.errors import UsageError
from nas.export import compiled_size, write_c
from nas.export.fold import fold
from nas.footprint import (
    CODE_BYTES,
    Deployment,
    DeviceLimit,
    folded_params,
    footprint,
    make_plan,
    plan_footprint,
)
from nas.model import build


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_the_count_is_the_export(text, tmp_path):
    """Norm factors are above zero in these networks, as `footprint` takes them to be."""
    architecture = Architecture.parse(text)
    trained, images = network(architecture), random_images(architecture)
    for kind, integer in (("int8", integer_network(trained, images)), ("float32", None)):
        report, counted = write_c(tmp_path, trained, images, integer), footprint(architecture, kind)
        assert (counted.weights, counted.tables) == (report.size.weights, report.size.tables)
        assert replace(counted, reserve=0) == report.size


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.name)
def test_code_is_within_its_allowance(processor, tmp_path):
    # Pools, residuals over one stage and two, both norm orders, separable, strides.
    for text in (*ARCHITECTURES[1:6], *ARCHITECTURES[-3:-1]):
        architecture = Architecture.parse(text)
        trained, images = network(architecture), random_images(architecture)
        for kind, integer in (("int8", integer_network(trained, images)), ("float32", None)):
            report = write_c(tmp_path, trained, images, integer)
            size = compiled_size(tmp_path, compiler(processor))
            assert size is not None
            assert 0 < size.text + size.data - report.size.weights - report.size.tables < CODE_BYTES[kind]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8 G C", 8 * 9 + 8 + 80),  # a norm becomes one bias a channel
        ("8b G Cb", 8 * 9 + 8 + 80 + 10),  # with the convolution's own
        ("8n G C", 8 * 9 + 80),
        ("8br G C", 8 * 9 + 8 + 80),
        ("s8 G C", 9 + 8 + 8 + 80),
    ],
)
def test_folded_parameters_are_counted_as_papers_do(text, count):
    architecture = Architecture.parse(text)
    assert folded_params(architecture) == count
    assert architecture.num_params == sum(parameter.numel() for parameter in build(architecture).parameters())


def test_limits_are_inclusive_and_named():
    found = footprint(Architecture.parse("8 M G C"))

    def problem(flash, ram):
        return DeviceLimit(title="x", flash=flash, ram=ram, required=True).problem(found)

    assert problem(found.flash, found.ram) == problem(None, None) == ""
    assert problem(found.flash - 1, None) == "1 bytes of flash too many"
    assert problem(found.flash, found.ram - 2) == "2 bytes of RAM too many"


def test_only_a_required_limit_fails():
    found = footprint(Architecture.parse("8 M G C"))
    for required in (True, False):
        limit = DeviceLimit(title="x", flash=1, ram=1, required=required)
        assert Deployment(footprint=found, limits=(limit,)).fits is not required
    fields = Deployment(footprint=found, limits=(limit,)).to_dict()
    assert fields["flash"] == found.flash
    assert fields["limits"][0]["fits"] is False


def test_boards_are_read_and_found_by_their_name():
    boards = read_boards()
    assert len(boards) >= 8
    for name, board in boards.items():
        assert board.name == name
        assert 1024 < board.ram < board.flash
        assert find_board(name.upper()) == find_board(name.replace("-", "_")) == board
    with pytest.raises(UsageError, match="no board 'c64': give one of nano-33-ble"):
        find_board("c64")
    assert BOARDS.name == "boards.toml"


def test_a_network_too_large_for_the_code_is_refused():
    with pytest.raises(UsageError, match="65,535 channels"):
        footprint(Architecture.parse("1x2x2: 70000k1 G C1"))


@settings(max_examples=40)
@given(architectures(max_side=12))
def test_no_network_takes_more_than_is_counted(architecture):
    """Whatever the signs of its norms: `reserve` has room for negative factors in front of a max-pool."""
    counted = {kind: footprint(architecture, kind) for kind in ("int8", "float32")}
    for trained in (network(architecture), random_network(architecture)):
        integer = integer_network(trained, random_images(architecture, 4))
        real = {
            "int8": plan_footprint(make_plan(integer.operations, floats=False), "int8"),
            "float32": plan_footprint(make_plan(fold(trained).operations, floats=True), "float32"),
        }
        for kind, found in real.items():
            assert found.flash <= counted[kind].flash
            assert found.ram <= counted[kind].ram
    assert replace(counted["int8"], reserve=0) == plan_footprint(
        make_plan(integer_network(network(architecture), random_images(architecture, 4)).operations, floats=False),
        "int8",
    )
