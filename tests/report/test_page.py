"""The page: the answer, nothing from a network, hostile texts as text, every kind of study."""

from __future__ import annotations

import dataclasses
import json
import re

import optuna
import pytest
import toys
from reports import HOSTILE, Page, add_run, searched

from nas.errors import StorageError, UsageError
from nas.report import MOST_BYTES, write_report
from nas.report.comparison import comparison
from nas.report.findings import read_findings
from nas.report.page import report_page
from nas.report.sections import provenance
from nas.study import StudyStore

SHOWN = HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def test_the_page_answers_first_and_asks_no_network(folder):
    run = add_run(searched())
    opening = {"utc": "2026-01-01", "purpose": "full run of it", "command": "nas train-best"}
    (run.parent / "test-openings.jsonl").write_text(json.dumps(opening) + "\n", encoding="utf-8")
    path = write_report()
    assert path == folder / "toy" / "report.html"
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    assert "http:" not in text
    assert "https:" not in text
    page, found = Page(text), read_findings("toy")
    for words in (found.schedule, "not held", f"of the cap of {toys.CAP}", "full run of it", "nas train-best",
                  found.reason.data_hash, "95 % interval", "Every opening of the test split"):  # fmt: skip
        assert words in page.text
    assert page.text.index("Winner:") < page.text.index("Finalists") < page.text.index("Accuracy against parameters")
    links = [attributes for tag, attributes in page.tags if attributes.keys() & {"src", "href"}]
    assert links
    assert all((each.get("href") or "").startswith(("#", "data:image/png;base64,")) for each in links)
    policy = page.all("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'")


def test_links_and_names_fit(finished):
    page = Page(report_page([finished]))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {attributes["href"][1:] for attributes in page.all("a")} <= set(names)
    assert len(page.all("script")) == 1
    assert all("aria-label" in attributes for attributes in page.all("svg") if "aria-hidden" not in attributes)


def test_hostile_texts_show_as_text(folder):
    found = searched()
    reason = dataclasses.replace(found.reason, classes=(HOSTILE, "b", "c", "d"), command=HOSTILE, notice=HOSTILE)
    store = StudyStore.open("toy")
    number = found.complete[0].number
    trials = []
    for trial in found.trials:
        if trial.number == number:
            trial.user_attrs["schedule"] = trial.user_attrs["published"] = HOSTILE
        trials.append(trial)
    failed = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL, user_attrs={"reason": HOSTILE, "schedule": HOSTILE}
    )
    store.study.add_trial(failed)
    trials.append(read_findings("toy").trials[-1])
    hostile = dataclasses.replace(
        found, name=HOSTILE, reason=reason, trials=tuple(trials), openings=({"purpose": HOSTILE, "command": HOSTILE},),
        damaged=(HOSTILE,), recipe=found.recipe | {HOSTILE: HOSTILE},
    )  # fmt: skip
    for studies in ([hostile], [hostile, found]):
        text = report_page(studies)
        page = Page(text)
        assert len(page.all("script")) == 1
        assert page.all("img") == []
        assert all(not name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert page.text.count(SHOWN) > 5
        assert "\x00" not in text


def test_a_page_without_finalists_or_winner(folder):
    store = toys.open_study()
    assert "no answer" in Page(report_page([read_findings("toy")])).text
    toys.run(toys.Pool(), store=store, trials=3)
    found = read_findings("toy")
    bare = dataclasses.replace(found, finalists=(), finalist_trials=(), reason=None, recipe=None)
    page = Page(report_page([bare]))
    assert "Leads so far" in page.text
    assert "no interval" in page.text
    assert "no winner has been written yet" in page.text


def test_reading_makes_no_study_of_finalists(folder):
    store = toys.open_study()
    read_findings("toy")
    assert [each.study_name for each in store.storage.get_all_studies()] == ["toy"]


def test_a_front_is_shown_by_its_parameters(folder):
    found = searched(pareto=True)
    assert found.reason.front is not None
    page = Page(report_page([found]))
    sizes = [row.num_params for row in sorted(found.reason.finalists, key=lambda row: row.num_params)]
    numbers = re.findall(
        r"\b\d{2,3}\b", page.text[page.text.index("Finalists") : page.text.index("Accuracy against parameters")]
    )
    places = [numbers.index(str(size)) for size in sizes]
    assert places == sorted(places)


def test_several_studies_stand_side_by_side(folder):
    first = searched()
    other = toys.settings(cap=400)
    toys.run(toys.Pool(), store=toys.open_study("other", chosen=other), cap=400)
    path = write_report(["toy", "other", "toy"])
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert "Side by side" in page.text
    assert page.text.count("Where every generated schedule went") >= 2
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert first.schedule in page.text


def test_other_studies_are_one_line(folder):
    optuna.create_study(study_name="theirs", storage=_url(folder, "theirs"))
    with pytest.raises(UsageError, match="'theirs' was not made by this version of nas"):
        write_report(["theirs"])
    identity = {"architecture": "8 G C"}
    StudyStore.create("recipes", None, identity, {})
    with pytest.raises(UsageError, match="study of recipes"):
        write_report(["recipes"])
    with pytest.raises(StorageError, match="no study 'nowhere'"):
        write_report(["nowhere"])


def test_damaged_files_are_named_and_the_rest_is_shown(folder):
    run = add_run(searched())
    (run / "result.json").write_text("{", encoding="utf-8")
    (run / "log.csv").write_text("\x00", encoding="utf-8")
    (run.parent / "test-openings.jsonl").write_text("no json\n", encoding="utf-8")
    page = Page(report_page([read_findings("toy")]))
    assert "result.json" in page.text
    assert "test-openings.jsonl cannot be read" in page.text
    assert "Accuracy against parameters" in page.text


def test_many_trials_stay_under_the_bound(finished):
    many = [dataclasses.replace(finished, trials=finished.trials * 500)]
    assert len(report_page(many).encode()) < MOST_BYTES


def test_the_command_writes_a_page_and_a_search_does_so_by_itself(folder, tmp_path):
    searched()
    code, out, err = toys.nas("report", "toy", "-o", str(tmp_path / "a.html"))
    assert (code, out.strip()) == (0, str(tmp_path / "a.html")), err
    from nas.cli.report import write_quietly

    assert write_quietly("toy", None, None) == folder / "toy" / "report.html"
    StudyStore.create("recipes", None, {"architecture": "8 G C"}, {})
    assert write_quietly("recipes", None, None) is None


def _url(folder, name):
    (folder / name).mkdir(parents=True)
    return f"sqlite:///{folder / name / 'study.db'}"


def test_a_finalist_that_failed_is_none_of_the_brief_trials(finished):
    """The finalists' study has numbers of its own."""
    cut = optuna.trial.create_trial(
        state=optuna.trial.TrialState.FAIL, params={"candidate": 4, "seed": 2},
        distributions={name: optuna.distributions.IntDistribution(0, 9) for name in ("candidate", "seed")},
        user_attrs={"reason": "interrupted by SIGINT", "interrupted": True, "schedule": "4v M 6 G C"},
    )  # fmt: skip
    text = Page(str(provenance(dataclasses.replace(finished, finalist_trials=(cut,))))).text
    assert "finalist 4, seed 2 interrupted" in text


def test_who_leads_a_search_that_goes_on_is_no_winner_beside_others(finished):
    running = dataclasses.replace(finished, name="other", reason=None)
    page = Page(str(comparison([finished, running])[0])).text
    assert page.count(f"{running.schedule} so far") == 1
