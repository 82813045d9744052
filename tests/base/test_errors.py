"""What a failure carries, across processes too."""

from __future__ import annotations

import pickle

import pytest

from nas.errors import DataError, InfeasibleError, NasError, StorageError, UsageError


@pytest.mark.parametrize(("kind", "code"), [(UsageError, 2), (InfeasibleError, 3), (DataError, 4), (StorageError, 4)])
def test_a_failure_has_its_exit_code_and_survives_a_pipe(kind, code):
    error = kind("what to do")
    assert isinstance(error, NasError)
    assert (error.exit_code, str(error)) == (code, "what to do")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_what_was_discarded_is_not_lost():
    counts = {"over a cap": 3}
    error = InfeasibleError("none", discards=counts)
    counts.clear()
    assert error.discards == pickle.loads(pickle.dumps(error)).discards == {"over a cap": 3}
    assert InfeasibleError("none").discards == {}
