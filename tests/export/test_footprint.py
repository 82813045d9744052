"""The memory that is counted before training is the memory of the code that the export writes."""

from __future__ import annotations

import pytest
from cortex import PROCESSORS, compiler
from deployed import ARCHITECTURES, integer_network, random_images
from exports import network

from nas.architecture import Architecture
from nas.budget import BOARDS, find_board, read_boards
from nas.errors import UsageError
from nas.export import Deployment, DeviceLimit, compiled_size, folded_params, footprint, write_c
from nas.export.footprint import CODE_BYTES
from nas.model import build


@pytest.mark.parametrize("text", ARCHITECTURES)
def test_the_count_is_the_export(text, tmp_path):
    """Norm factors are above zero in these networks, as `footprint` takes them to be."""
    architecture = Architecture.parse(text)
    trained, images = network(architecture), random_images(architecture)
    for kind, integer in (("int8", integer_network(trained, images)), ("float32", None)):
        report, counted = write_c(tmp_path, trained, images, integer), footprint(architecture, kind)
        assert (counted.weights, counted.tables) == (report.size.weights, report.size.tables)
        assert (counted.arena, counted.image) == (report.size.ram, report.size.image)
        assert counted.flash == report.size.weights + report.size.tables + CODE_BYTES[kind]
        assert counted.ram == report.size.ram + report.size.image + 4 * architecture.num_classes


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda processor: processor.name)
def test_code_is_within_its_allowance(processor, tmp_path):
    for text in ARCHITECTURES[1:6]:  # pools, residuals, both norm orders, separable, strides
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
