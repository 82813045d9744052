"""The benchmark of populations runs from end to end, on the CPU and tiny; its figures mean nothing there."""

from __future__ import annotations

import dataclasses

import pytest
import toys
from rich.console import Console


@pytest.fixture(scope="module")
def script():
    return toys.benchmark("population")


def test_the_rehearsal_fills_every_cell_of_the_table(script, capsys):
    scale = dataclasses.replace(script.REHEARSAL, sizes=(2,), first=1, last=3)
    saved = []
    found = script.measure(scale, saved.append)
    assert found["left_out"] == []
    assert list(found["populations"]) == ["seeds, 2", "widths, 2", "proposed, 2"]
    for each in found["populations"].values():
        assert each["step"] > each["bytes_floor"] > 0
        assert each["at_once"] == 2
        assert each["padding"]["padded_macs"] >= each["padding"]["macs"]
    console = Console(width=200, record=True)
    console.print(script.table(found))
    text = console.export_text()
    assert "REHEARSAL" in text
    assert "proposed, 2" in text
    assert len(saved) == 3


def test_what_there_is_no_time_for_is_named(script, monkeypatch):
    times = iter(range(0, 10_000, 200))
    monkeypatch.setattr(script.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(script, "population", lambda *_: {})
    monkeypatch.setattr(script, "one", lambda *_, **__: 1.0)
    monkeypatch.setattr(script, "streams", lambda *_: 1.0)
    found = script.measure(dataclasses.replace(script.REHEARSAL, minutes=8), lambda _: None)
    assert found["left_out"]
    assert list(found["populations"]) == ["seeds, 2"]


def test_candidates_of_a_kind_are_of_one_plan_or_as_proposed(script):
    training, _ = script.images(script.REHEARSAL)
    widths, seeds = (script.candidates(kind, 5, training) for kind in ("widths", "seeds"))
    assert len(set(widths)) == 5
    assert len(set(seeds)) == 1
    assert len({script.tail(str(each)) for each in widths}) == 5
    assert len(set(script.candidates("proposed", 5, training))) == 5
    assert script.candidates("proposed", 5, training) == script.candidates("proposed", 5, training)


def test_without_a_device_or_a_record_it_says_so(script, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="not measured yet"):
        script.main(tmp_path / "none.json", only_table=True)
    monkeypatch.setattr(script.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--rehearse runs on the CPU"):
        script.main(tmp_path / "none.json")
