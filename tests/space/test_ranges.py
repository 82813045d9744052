"""What varies: derived from the input and the caps, set by `[space]`; and points of the wider spaces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import choices, seeds, space, uniform

from nas.architecture import Architecture, InvertedBottleneck
from nas.budget import Budget, read_budget
from nas.errors import UsageError
from nas.space import SearchSpace
from nas.space_options import CHOICES, SPANS, SpaceOptions

RECORDS = "slots-1 depth 5-8 width 4-50"
"""The space of the MNIST records under 8,000 parameters: a study of it can always be resumed."""


def test_the_space_of_the_records_stays():
    it = space(8000)
    assert it.key == RECORDS
    assert list(it.distributions)[:6] == ["depth", "first_pool", "second_pool", "down", "first_kernel", "order"]
    assert not any(name.startswith(("kernel", "expansion", "third")) for name in it.distributions)
    assert space(700, input_shape=(1, 16, 16)).key == "slots-1 depth 5-8 width 2-15"


@pytest.mark.parametrize(
    ("shape", "cap", "pools", "depth"),
    [
        ((3, 32, 32), 11_400, (2, 3), (7, 11)),
        ((3, 32, 32), 100_000, (2, 3), (10, 14)),
        ((3, 96, 96), 50_000, (3, 4), (11, 15)),
        ((3, 16, 16), 1_000, (1, 2), (4, 6)),
        ((1, 28, 28), 60_000, (1, 2), (7, 11)),
        ((3, 4, 4), 1_000, (1, 1), (4, 6)),
        ((3, 9999, 9999), 10**9, (3, 4), (12, 16)),
    ],
)
def test_pools_and_depth_follow_the_side_and_the_cap(shape, cap, pools, depth):
    ranges = space(cap, input_shape=shape).ranges
    assert (ranges.pools, ranges.depth) == (pools, depth)
    assert ranges.ties_widths


@pytest.mark.parametrize(
    ("shape", "cap", "most_macs"),
    [((3, 32, 32), 11_400, 5e6), ((3, 32, 32), 100_000, 4e7), ((3, 96, 96), 50_000, 5e7), ((3, 16, 16), 1_000, 3e5)],
)
def test_most_random_networks_are_sane(shape, cap, most_macs):
    it, rng = space(cap, input_shape=shape), np.random.default_rng(0)
    found = [it.check(it.random(rng), ()) for _ in range(150)]
    fitting = [checked for checked in found if isinstance(checked, Architecture)]
    assert len(fitting) >= 0.5 * len(found)
    assert np.percentile([architecture.macs for architecture in fitting], 95) <= most_macs
    assert np.percentile([architecture.num_params for architecture in fitting], 5) >= 0.6 * cap
    kinds = {type(block).__name__ for architecture in fitting for block in architecture.blocks}
    assert kinds >= {"Conv", "InvertedBottleneck", "MaxPool"}
    last = [architecture.layers[-4].output_shape[1] for architecture in fitting]
    assert np.median(last) <= 12


def test_a_residual_fits_by_construction():
    """Every block of a residual network but a stage's first, and squeezes, adds its input."""
    it, rng = space(11_400, input_shape=(3, 32, 32)), np.random.default_rng(0)
    for _ in range(100):
        point = it.random(rng) | {"residual": True, "down": "pool"}
        point |= {name: "inverted" for name in point if name.startswith("kind")}
        try:
            words = str(it.decode(point)).split()[1:]
        except UsageError:
            continue
        assert all(
            word.endswith("+") or before in ("M", None) or not word.startswith("i")
            for before, word in zip([None, *words], words, strict=False)
        )


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(3, 32, 32), (3, 96, 96), (2, 9, 13)]), st.sampled_from([2000, 50_000]), seeds)
def test_points_of_a_wide_space_encode_mutate_and_shrink(shape, cap, seed):
    it, rng = space(cap, input_shape=shape), np.random.default_rng(seed)
    for params in (it.random(rng), uniform(it, rng)):
        mutant = it.mutate(params, rng)
        assert all(mutant[name] in choices(d) for name, d in it.distributions.items())
        try:
            architecture = it.decode(params)
        except UsageError:
            continue
        again = it.encode(architecture)
        assert again is not None
        assert it.decode(again) == architecture
        shrunk = it.shrink(params)
        assert shrunk is None or it.budget.admits(shrunk[1].num_params, shrunk[1].macs)


def narrowed(cap=11_400, shape=(3, 32, 32), **options) -> SearchSpace:
    return SearchSpace(budget=Budget(max_params=cap, space=SpaceOptions(**options)), input_shape=shape)


def drawn(it: SearchSpace, number: int = 60) -> list[Architecture]:
    rng = np.random.default_rng(0)
    points = [it.random(rng) for _ in range(number)]
    points += [it.mutate(point, rng) for point in points]
    found = [it.check(point, ()) for point in points]
    return [checked for checked in found if isinstance(checked, Architecture)]


def test_the_user_narrows_kinds_kernels_depth_and_pools():
    it = narrowed(
        blocks=("inverted",), depth=(5, 6), kernel_sizes=(5,), expansions=(2,), pools=(2, 2), down=("stride",),
        heads=("G C",), padded=(True,), residual=(True,), widths=(8, 20), first_kernel_sizes=(5,),
    )  # fmt: skip
    found = drawn(it)
    assert len(found) > 40
    for architecture in found:
        first, *rest = architecture.blocks[:-2]
        assert (first.kernel_size, 5 <= architecture.depth <= 6) == (5, True)
        assert all(isinstance(block, InvertedBottleneck) for block in rest)
        assert {(block.kernel_size, block.expansion, block.padded) for block in rest} == {(5, 2, True)}
        assert sum(block.stride == 2 for block in rest) == 2
        assert all(8 <= block.width <= 20 for block in (first, *rest))
        assert str(architecture).endswith("G C")


def test_the_user_widens_the_space_of_mnist():
    it = narrowed(8000, (1, 28, 28), blocks=("conv", "separable", "inverted"), kernel_sizes=(3, 7))
    assert it.key != RECORDS
    texts = " ".join(map(str, drawn(it)))
    assert "k7" in texts
    assert " i" in texts


@pytest.mark.parametrize("name", CHOICES)
def test_one_choice_alone_is_a_space(name):
    for choice in CHOICES[name]:
        it = narrowed(**{name: (choice,)})
        it.require_feasible()
        if choice not in ("squeeze", "C G"):
            assert drawn(it, 20)


def test_what_is_resolved_is_part_of_a_studys_identity():
    keys = {narrowed(**options).key for options in ({}, {"depth": (5, 6)}, {"blocks": ("conv",)}, {"pools": (1, 1)})}
    assert len(keys) == 4
    assert narrowed().key == space(11_400, input_shape=(3, 32, 32)).key


def test_a_table_of_a_budget_file_sets_the_space(tmp_path):
    path = tmp_path / "narrow.toml"
    path.write_text(
        'max_params = 11400\n[space]\nblocks = ["separable", "inverted"]\ndepth = [6, 9]\nresidual = [true]\n'
    )
    wanted = SpaceOptions(blocks=("separable", "inverted"), depth=(6, 9), residual=(True,))
    assert read_budget(str(path)).space == wanted
    assert read_budget(str(path), max_params=5000).space == wanted


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("kinds = ['conv']", "unknown key 'kinds' in [space]: it has blocks, depth"),
        ("blocks = []", "[space] blocks is a list of some of"),
        ("blocks = ['convolution']", "not ['convolution']"),
        ("blocks = 'conv'", "[space] blocks is a list"),
        ("blocks = ['conv', 'conv']", "names a choice twice"),
        ("blocks = [['conv']]", "[space] blocks is a list"),
        ("kernel_sizes = [4]", "[space] kernel_sizes is a list of some of 3, 5, 7, not [4]"),
        ("kernel_sizes = [3.0]", "not [3.0]"),
        ("expansions = [true]", "not [True]"),
        ("residual = [1]", "[space] residual is a list of some of true, false, not [1]"),
        ("depth = [9, 6]", "[space] depth is [least, most], whole numbers from 2 to 24, not [9, 6]"),
        ("depth = [1, 6]", "from 2 to 24"),
        ("depth = [6]", "[least, most]"),
        ("depth = 6", "[least, most]"),
        ("depth = [6.0, 7.0]", "[least, most]"),
        ("widths = [0, 8]", "from 1 to 4096"),
        ("pools = [0, 9]", "from 0 to 5"),
        ("heads = ['G']", "[space] heads is a list"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(table, message, tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text(f"max_params = 8000\n[space]\n{table}\n")
    with pytest.raises(UsageError) as caught:
        read_budget(str(path))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_space_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "wrong.toml"
    path.write_text("max_params = 8000\nspace = 3\n")
    with pytest.raises(UsageError, match=r"\[space\] is a table of options, not 3"):
        read_budget(str(path))
    with pytest.raises(UsageError, match="space is a table of options"):
        Budget(max_params=8000, space={"blocks": ["conv"]})  # type: ignore[arg-type]


def test_more_pools_than_blocks_are_refused():
    with pytest.raises(UsageError, match=r"\[space\] 5 pools need more blocks than 3"):
        narrowed(depth=(3, 4), pools=(1, 5)).require_feasible()


def test_every_option_is_checked():
    assert {*SPANS, *CHOICES} == set(SpaceOptions.__dataclass_fields__)
