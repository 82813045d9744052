"""Workers by the memory there is: all, fewer with a word, or a refusal with the figures."""

from __future__ import annotations

import pytest
import toys

from nas.errors import UsageError
from nas.workers import MemoryNeed, fitting_workers

NEED = MemoryNeed(images=50_000_000, logits=30_000_000, worker=400_000_000)


@pytest.mark.parametrize(
    ("megabytes", "count"), [(100_000, 8), (3280, 8), (3279, 7), (900, 2), (880, 2), (879, 1), (480, 1)]
)
def test_as_many_workers_as_fit(megabytes, count):
    told = []
    assert fitting_workers(8, NEED, told.append, available=megabytes * 1_000_000) == count
    assert NEED.total(count) <= megabytes * 1_000_000
    assert len(told) == (count < 8)
    assert all(f"memory for {count} of 8 workers: 50 MB images, 30 MB teacher logits" in line for line in told)


def test_one_that_does_not_fit_is_refused_with_the_figures():
    with pytest.raises(UsageError, match="one worker does not fit") as error:
        fitting_workers(8, NEED, print, available=479_000_000)
    assert "480 MB in all, of 479 MB left" in str(error.value)
    assert "\n" not in str(error.value)


def test_without_a_word_of_the_system_all_are_taken(monkeypatch):
    monkeypatch.setattr("nas.workers.memory.available_memory", lambda: None)
    assert fitting_workers(64, NEED, print) == 64


def test_a_need_is_of_the_images_and_the_teachers_epochs():
    training = toys.synthetic()
    need = MemoryNeed.of(training, 9)
    assert need.logits == 9 * len(training.train) * training.dataset.num_classes * 2
    assert need.images >= training.train.images.nbytes + training.validation.images.nbytes
    assert MemoryNeed.of(training, 0).logits == 0


@pytest.mark.parametrize(("megabytes", "code"), [(900, 0), (300, 2)])
def test_a_search_takes_fewer_workers_or_says_that_none_fits(megabytes, code, monkeypatch, tmp_path):
    counts = []

    def pool(count, *_, **__):
        counts.append(count)
        return toys.Pool(count)

    monkeypatch.setattr("nas.workers.memory.available_memory", lambda: megabytes * 1_000_000)
    monkeypatch.setattr("nas.library.pools.ProcessPool", pool)
    studies = tmp_path / "studies"
    left, _, err = toys.nas(*toys.TINY_SEARCH, "--workers", "4", "--no-report", NAS_STUDIES=str(studies))
    assert left == code, err
    if code:
        assert err.strip().splitlines()[-1].startswith("error: one worker does not fit into the memory: ")
        assert (counts, studies.exists()) == ([], False)
    else:
        assert counts == [2]
        assert "memory for 2 of 4 workers" in err
