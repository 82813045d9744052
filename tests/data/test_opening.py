from __future__ import annotations

import hashlib
import json

import pytest
from idx_files import FILES, MNIST

from nas import data
from nas.errors import DataError, StorageError


def test_each_opening_of_test_is_recorded(toy, monkeypatch):
    log = toy / "study" / "test_openings.jsonl"
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/nas", "train-best", "--study", "my study"])
    split = data.open_test(MNIST, data_dir=toy, log=log, purpose="full run")
    data.open_test(MNIST, data_dir=toy, log=log, purpose="evaluate")
    assert len(split) == 50
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["purpose"] for line in lines] == ["full run", "evaluate"]
    raw = toy / "MNIST" / "raw"
    content = (raw / FILES[2]).read_bytes()[16:] + (raw / FILES[3]).read_bytes()[8:]
    for line in lines:
        assert line["dataset"] == "mnist"
        assert line["sha256"] == hashlib.sha256(content).hexdigest()
        assert line["command"] == "nas train-best --study 'my study'"
        assert line["utc"].endswith("+00:00")


@pytest.mark.parametrize("log", ["", "MNIST/raw", f"MNIST/raw/{FILES[0]}/log"])
def test_test_stays_closed_when_the_opening_cannot_be_recorded(toy, log):
    for name in FILES[2:]:
        (toy / "MNIST" / "raw" / name).write_bytes(b"broken")  # a read would raise DataError
    with pytest.raises(StorageError, match="stays closed"):
        data.open_test(MNIST, data_dir=toy, log=toy / log, purpose="law")


def test_a_failed_opening_is_not_recorded_as_one(toy):
    (toy / "MNIST" / "raw" / FILES[2]).write_bytes(b"broken")
    with pytest.raises(DataError):
        data.open_test(MNIST, data_dir=toy, log=toy / "log", purpose="law")
    assert (toy / "log").read_text() == ""
