"""The published designs: a spelling of each has the count that its author states."""

from __future__ import annotations

import pytest

from nas.architecture import Architecture
from nas.designs import PUBLISHED_DESIGNS


@pytest.mark.parametrize("design", PUBLISHED_DESIGNS, ids=lambda design: design.name)
def test_a_design_has_the_count_its_author_states(design):
    architecture = Architecture.parse(design.text)
    assert architecture.num_params == design.num_params
    assert design.name.endswith(f"-{design.num_params}")
    assert str(architecture) == design.text


def test_the_catalogue_holds_each_design_once():
    assert (
        len({design.name for design in PUBLISHED_DESIGNS})
        == len({design.text for design in PUBLISHED_DESIGNS})
        == len(PUBLISHED_DESIGNS)
    )
