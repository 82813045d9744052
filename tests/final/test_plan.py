"""Plans of full runs: a winner, one of its trials, a record, any schedule; and where a finished run is found."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import toys

from nas import data, train
from nas.architecture import Architecture
from nas.errors import StorageError, UsageError
from nas.final import FullRunPlan, locate_run
from nas.train import Recipe

SMALL = Architecture.parse("8vr 9vr 10vr M 12vr 16vr 20vr C G")


@pytest.fixture
def tiny(tmp_path_factory, tmp_path, monkeypatch):
    """The study of a finished tiny search, in a copy."""
    folder = tmp_path / "studies"
    shutil.copytree(toys.finished(tmp_path_factory)[0], folder)
    monkeypatch.setenv("NAS_STUDIES", str(folder))
    return folder / "tiny"


# --- a study's winner and its trials ----------------------------------------------------------------------------------


def test_a_winner_is_planned_as_its_search_says(tiny):
    plan = FullRunPlan.of_winner("tiny")
    reason = json.loads((tiny / "best" / "reason.json").read_text())
    assert str(plan.architecture) == reason["finalists"][0]["schedule"]
    assert (plan.dataset, plan.seeds, plan.target, plan.base) == ("synthetic", (0,), None, tiny)
    assert plan.recipe.epochs == 15 * data.find_dataset("synthetic").epoch_factor
    assert plan.recipe == dataclasses.replace(toys.settings().recipe, epochs=plan.recipe.epochs)


def test_any_trial_of_a_study_can_be_planned(tiny):
    plan = FullRunPlan.of_trial("tiny", 2)
    assert plan.recipe == FullRunPlan.of_winner("tiny").recipe
    assert plan.base == tiny
    with pytest.raises(UsageError, match="has no trial 999"):
        FullRunPlan.of_trial("tiny", 999)
    with pytest.raises(StorageError, match="no winner in"):
        FullRunPlan.of_trial("nothing", 0)


DAMAGES = {
    "reason.json": ["{}", "", '{"dataset": "synthetic"', "[]", "[" * 100_000, '{"dataset": 3, "target": null}',
                    '{"dataset": "synthetic", "target": "high"}'],
    "recipe.json": ["[]", '{"epochs": 3', ""],
    "architecture.txt": ["", "8q", "1x16x16: 4 M 4 G C4"],
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_winner_is_named_in_one_line(tiny, name):
    for content in DAMAGES[name]:
        (tiny / "best" / name).write_text(content)
        with pytest.raises(StorageError, match=rf"{name.replace('.txt', '.(txt|json)')} is damaged: [^\n]*$"):
            FullRunPlan.of_winner("tiny")


@pytest.mark.parametrize("recipe", ['{"momentum": 0.9}', '{"epochs": 0}', '{"epochs": "many"}', '{"epochs": null}'])
def test_a_winners_recipe_that_breaks_a_rule_is_refused(tiny, recipe):
    (tiny / "best" / "recipe.json").write_text(recipe)
    with pytest.raises(UsageError, match=r"^[^\n]*$"):
        FullRunPlan.of_winner("tiny")


# --- any schedule -----------------------------------------------------------------------------------------------------


def test_a_schedule_takes_the_default_recipe_of_its_data_set():
    plan = FullRunPlan.of_schedule("4v M 6 G C", data.find_dataset("synthetic"), "by-hand")
    assert str(plan.architecture) == "1x16x16: 4v M 6 G C4"
    assert plan.recipe == Recipe(epochs=15 * data.find_dataset("synthetic").epoch_factor)
    assert plan.target is None
    assert FullRunPlan.of_schedule("8 M G C", data.find_dataset("mnist"), "by-hand").target == 99.4
    with pytest.raises(UsageError, match="8q"):
        FullRunPlan.of_schedule("8q M G C", data.find_dataset("mnist"), "by-hand")


def test_a_plan_is_changed_by_what_is_given_alone():
    plan = FullRunPlan.of_schedule("4v M 6 G C", data.find_dataset("synthetic"), "by-hand")
    assert plan.changed() == plan
    changed = plan.changed(recipe=Recipe(batch_size=32), epochs=3, seeds=4, target=50.0)
    assert (changed.recipe, changed.seeds, changed.target) == (Recipe(batch_size=32, epochs=3), (0, 1, 2, 3), 50.0)
    for wrong in ({"epochs": 0}, {"epochs": 20_000}, {"seeds": 0}):
        with pytest.raises(UsageError):
            plan.changed(**wrong)


def test_who_gets_a_teacher():
    large = Architecture.parse("40 40 M 64 G C")
    base = FullRunPlan.of_schedule(str(SMALL), data.find_dataset("mnist"), "by-hand")

    def chosen(plan, choice):
        return plan.with_teacher(choice).recipe.teacher

    assert chosen(base, None) == chosen(base, "auto") == train.TEACHER
    assert chosen(base, "none") is None
    assert chosen(base, "12 M 16 G C") == "12 M 16 G C"
    assert chosen(dataclasses.replace(base, architecture=large), None) is None
    assert chosen(dataclasses.replace(base, dataset="synthetic"), None) is None
    assert chosen(dataclasses.replace(base, reference={"name": "records/8000"}), None) is None  # as it was
    assert chosen(base.with_teacher("12 M 16 G C"), None) == "12 M 16 G C"  # a recipe that names one
    searched = dataclasses.replace(base, searched=True)
    assert chosen(searched, None) is None  # as its search chose
    assert chosen(searched, "auto") == train.TEACHER
    assert chosen(searched.changed(epochs=3), None) is None
    assert chosen(searched.changed(recipe=Recipe()), None) == train.TEACHER  # another recipe has no choice of a search
    with pytest.raises(UsageError, match="twelve"):
        chosen(base, "twelve M")
    far = base.changed(recipe=Recipe(scale=0.9))
    with pytest.raises(UsageError, match="scale"):  # one and a half times as much, for its teacher
        far.with_teacher("auto")


# --- a record ---------------------------------------------------------------------------------------------------------


def test_a_record_is_planned_as_it_was_run(studies, copied, trained):
    plan, first = FullRunPlan.of_reference("700"), trained[0]
    assert (plan.architecture, plan.recipe, plan.dataset) == (first.plan.architecture, first.plan.recipe, "synthetic")
    assert (plan.seeds, plan.target) == ((0, 1), None)
    assert plan.base == studies / "reproduction-700"
    assert plan.reference is not None
    stated = ("last5_mean", "last5_sd", "data_hash", "torch", "epochs")
    assert {key: plan.reference[key] for key in stated} == {key: getattr(first.result, key) for key in stated}
    assert plan.reference["name"] == "records/700"
    result = studies / "records" / "700" / "result.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"recipe": {"momentum": 0.9}}))
    with pytest.raises(UsageError, match="unknown key 'momentum'"):
        FullRunPlan.of_reference("700")


def test_a_record_goes_by_its_short_name_too(studies):
    shutil.copytree(studies / "records" / "700", studies / "records" / "8000")
    plans = [FullRunPlan.of_reference(name) for name in ("8000", "8k")]
    assert [plan.base.name for plan in plans] == ["reproduction-8000"] * 2
    assert [plan.reference["name"] for plan in plans] == ["records/8000"] * 2


def test_a_record_that_is_not_there_says_which_are(studies, tmp_path, monkeypatch):
    with pytest.raises(StorageError) as error:
        FullRunPlan.of_reference("9k")
    for text in ("no record '9000'", str(studies / "records"), "700", "clone", "NAS_STUDIES"):
        assert text in str(error.value)
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "empty"))
    for name in ("8k", "../8k", "", ".", ".."):
        with pytest.raises(StorageError, match="none there"):
            FullRunPlan.of_reference(name)


def test_names_that_lead_out_of_the_records_are_refused(studies):
    for name in ("../small", "700/../../small", "", ".", "..", str(studies)):
        with pytest.raises(StorageError, match="no record"):
            FullRunPlan.of_reference(name)


# --- finding a full run -----------------------------------------------------------------------------------------------


def test_a_full_run_is_found_by_its_folder_its_study_its_cap_and_by_nothing(copied, studies, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (str(copied), f"studies/small/{copied.name}", "studies/small", "small"):
        assert locate_run(name).resolve() == copied
    (tmp_path / "small").mkdir(exist_ok=True)  # a folder of images, such as a study is named after
    (studies / "small" / "study.db").touch()
    assert locate_run("small").resolve() == copied
    for name in ("700", "studies/records/700"):
        assert locate_run(name).resolve() == studies / "records" / "700"
    shutil.copytree(studies / "records" / "700", studies / "records" / "8000")
    assert locate_run("8k") == studies / "records" / "8000"
    assert locate_run(None).parent.name == "large"  # the latest
    with pytest.raises(StorageError, match="no full run in"):
        locate_run("800")


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\udcffx", "../x", ""])
def test_a_name_that_no_folder_can_have_is_refused(studies, name):
    with pytest.raises((UsageError, StorageError), match=r"^[^\n]*$"):
        locate_run(name)
    with pytest.raises(UsageError, match=r"a study's name [^\n]*$"):
        FullRunPlan.of_winner(name)
