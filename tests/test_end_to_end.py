"""The end-to-end benchmark: the plain script keeps its rules, and the record is resumed and read honestly."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import toys
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FixedTrial, TrialState
from rich.console import Console
from torch.utils.data import TensorDataset

from nas import data
from nas.architecture import Architecture
from nas.model import build
from nas.searches import Settings
from nas.train import Recipe

plain_search, end_to_end = toys.benchmark("plain_search"), toys.benchmark("end_to_end")


class Stripes(TensorDataset):
    """In place of torchvision's MNIST: 60 images of the same size, random, with labels."""

    def __init__(self, root: Path, *, train: bool, download: bool, transform: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        labels = torch.randint(10, (60,), generator=generator)
        super().__init__(torch.randn(60, 1, 28, 28, generator=generator), labels)


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of a loaded machine wait for each other, and these networks are too small to need them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def options(tmp_path, monkeypatch) -> argparse.Namespace:
    """A plain search without processes: 50 images to train, 10 to score."""
    monkeypatch.setattr(plain_search.datasets, "MNIST", Stripes)
    monkeypatch.setattr(plain_search, "EPOCHS", 2)
    ticks = itertools.count()  # seconds, whatever the machine does: a batch takes one, the end of a trial two
    monkeypatch.setattr(plain_search, "time", argparse.Namespace(perf_counter=lambda: float(next(ticks))))
    return argparse.Namespace(
        max_params=100_000, threshold=101.0, timeout=1000.0, seed=0, journal=tmp_path / "plain.journal",
        validation=None, workers=0, data_dir=tmp_path,
    )  # fmt: skip


def study_of(options: argparse.Namespace) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(options.journal)))
    return optuna.load_study(study_name=f"plain-{options.max_params}-seed{options.seed}", storage=storage)


def never(*_: Any) -> Any:
    raise AssertionError("this was not to run")


# --- the plain script -------------------------------------------------------------------------------------------------


def count(params: dict[str, Any]) -> int:
    """Weights of the convolutions, two a batch-norm channel, the classifier with its biases."""
    widths = [1, *(params[f"width{number}"] for number in range(1, params["depth"] + 1))]
    kernels = [params[f"kernel{number}"] for number in range(1, params["depth"] + 1)]
    convolutions = sum(k * k * a * b + 2 * b for k, a, b in zip(kernels, widths, widths[1:], strict=False))
    return convolutions + 10 * widths[-1] + 10


def test_a_plain_network_has_the_parameters_that_its_draws_say():
    sampler = optuna.samplers.RandomSampler(seed=0)
    study, built = optuna.create_study(sampler=sampler), 0
    for _ in range(40):
        trial = study.ask()
        try:
            model = plain_search.build(trial)
        except optuna.TrialPruned:
            with pytest.raises(optuna.TrialPruned):  # by its draws alone
                plain_search.build(FixedTrial(trial.params))
            continue
        assert count(trial.params) == sum(parameter.numel() for parameter in model.parameters())
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
        built += 1
    assert built > 20


def test_over_the_cap_a_plain_trial_is_pruned_and_never_trained(options, monkeypatch):
    monkeypatch.setattr(plain_search, "score", never)
    options.max_params, options.timeout = 100, 20
    found = plain_search.search(options)
    trials = study_of(options).trials
    assert found["over_cap"] == sum(trial.user_attrs.get("num_params", 0) > 100 for trial in trials) > 0
    assert {trial.state for trial in trials} == {TrialState.PRUNED}
    assert (found["trained"], found["reached"], found["best"]) == (0, False, None)


def test_the_threshold_ends_the_plain_study(options, monkeypatch):
    scores = iter([90.0, 91.0, 92.0, 95.0])
    monkeypatch.setattr(plain_search, "score", lambda *_: next(scores))
    options.threshold = 93.5
    found = plain_search.search(options)
    assert found["reached"]
    assert found["best"]["last5"] == 93.5
    assert found["best"]["num_params"] == count(found["best"]["params"])
    assert found["trials"]["COMPLETE"] == found["trained"] == 2
    monkeypatch.setattr(plain_search, "loaders", never)
    assert plain_search.search(options) == found


def test_a_last_epoch_over_the_threshold_is_not_enough(options, monkeypatch):
    """A pruned trial's value is its last epoch's for Optuna, which is no mean of the last."""
    monkeypatch.setattr(plain_search, "score", lambda *_: 99.0)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    options.threshold, options.timeout = 50.0, 12
    found = plain_search.search(options)
    assert found["trained"] > 0
    assert not found["reached"]
    assert found["best"] is None


def test_the_time_limit_is_kept_in_the_middle_of_a_trial(options, monkeypatch):
    options.timeout = 18
    monkeypatch.setattr(plain_search, "EPOCHS", 10**6)
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: False)
    found = plain_search.search(options)
    assert 18 < found["seconds"] < 22
    assert (found["reached"], found["trained"], found["best"]) == (False, 1, None)
    assert len(study_of(options).trials[-1].intermediate_values) > 5
    monkeypatch.setattr(plain_search, "loaders", never)
    assert plain_search.search(options) == found


def test_a_resumed_plain_study_adds_its_seconds_and_draws_on(options):
    options.timeout = 9
    first = plain_search.search(options)
    assert 9 <= first["seconds"] < 13
    killed = study_of(options).ask()
    options.timeout = 18
    second = plain_search.search(options)
    assert 18 <= second["seconds"] < 22
    trials = study_of(options).trials
    assert trials[killed.number].state == TrialState.FAIL
    assert len(trials) > killed.number + 1
    assert trials[killed.number + 1].params != trials[0].params


def test_the_plain_split_is_the_one_it_is_given(options, tmp_path):
    train, validation = plain_search.loaders(tmp_path, [3, 1, 59], 0)
    assert list(validation.dataset.indices) == [3, 1, 59]
    assert sorted([*train.dataset.indices, 3, 1, 59]) == list(range(60))


# --- the comparison ---------------------------------------------------------------------------------------------------


class Runners:
    """In place of the two sides: what was to be run, and answers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, plain: bool = True, fail_at: str = "") -> None:
        self.begun: list[str] = []
        self.plain, self.fail_at = plain, fail_at
        monkeypatch.setattr(end_to_end, "run_ours", self.run_ours)
        monkeypatch.setattr(end_to_end, "run_plain", self.run_plain)
        monkeypatch.setattr(end_to_end, "pace", lambda: 3.25 + len(self.begun))

    def begin(self, name: str) -> None:
        if name == self.fail_at:
            raise KeyboardInterrupt
        self.begun.append(name)

    def run_ours(self, seed: int, options: Any, folder: Path) -> dict[str, Any]:
        self.begin(f"ours {seed}")
        return {"reached": True, "seconds": 60.0 + seed, "rounds": [{"trials": 40, "last5": 99.47}]}

    def run_plain(self, seed: int, seconds: float, options: Any, folder: Path) -> dict[str, Any]:
        self.begin(f"plain {seed}")
        assert seconds == 10 * (60.0 + seed)
        best = {"last5": 99.46 if self.plain else 99.3}
        taken = 240.0 + 4 * seed if self.plain else seconds + 0.1
        trials = {"COMPLETE": 3, "PRUNED": 104, "FAIL": 2}
        return {"reached": self.plain, "seconds": taken, "trials": trials, "trained": 3, "best": best}


def shown(record: dict[str, Any]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(end_to_end.table(record))
    return capture.get()


def test_no_half_is_run_twice(tmp_path, monkeypatch):
    path, options = tmp_path / "record.json", end_to_end.Options()
    cut = Runners(monkeypatch, fail_at="plain 1")
    with pytest.raises(KeyboardInterrupt):
        end_to_end.compare(path, options, 2)
    assert cut.begun == ["ours 0", "plain 0", "ours 1"]
    assert "4.0" in shown(json.loads(path.read_text()))  # a record with a half of a repeat can be read
    resumed = Runners(monkeypatch)
    record = end_to_end.compare(path, options, 2)
    assert resumed.begun == ["plain 1"]
    assert record == json.loads(path.read_text())
    assert [end_to_end.ratio(halves) for halves in record["repeats"].values()] == ["4.0", "4.0"]
    sittings = [(row["seed"], row["side"], row["epoch_seconds"]) for row in record["sittings"]]
    assert sittings == [
        (0, "ours", 4.25), (0, "plain", 4.25), (1, "ours", 6.25), (1, "plain", 6.25), (1, "plain", 3.25)
    ]  # fmt: skip
    assert "6.2, 6.2, 3.2" in shown(record)
    with pytest.raises(SystemExit, match=r"threshold = 99\.45, not 99\.4"):
        end_to_end.compare(path, end_to_end.Options(threshold=99.4), 2)


def test_our_half_alone_leaves_the_other_to_a_later_run(tmp_path, monkeypatch):
    path, runs = tmp_path / "record.json", Runners(monkeypatch)
    record = end_to_end.compare(path, end_to_end.Options(), 1, ("ours",))
    assert runs.begun == ["ours 0"]
    assert end_to_end.totals(record["repeats"])
    assert shown(record)
    end_to_end.compare(path, end_to_end.Options(), 1)
    assert runs.begun == ["ours 0", "plain 0"]


def test_the_pace_is_without_compiling(monkeypatch):
    seconds = iter([19.2, 3.1])
    monkeypatch.setattr(end_to_end, "images", lambda: (None, None))
    monkeypatch.setattr(end_to_end, "train", lambda *_, **__: argparse.Namespace(seconds=next(seconds)))
    assert end_to_end.pace() == 3.1


def test_a_censored_run_is_reported_as_such(tmp_path, monkeypatch):
    Runners(monkeypatch, plain=False)
    record = end_to_end.compare(tmp_path / "record.json", end_to_end.Options(), 1)
    assert end_to_end.ratio(record["repeats"]["0"]) == ">= 10.0"
    assert "10.0, not reached" in shown(record)
    assert " 107 " in shown(record)  # those killed are not among the trials


@pytest.mark.parametrize(("plain", "text"), [(True, "<= 2.0"), (False, "neither")])
def test_where_ours_fails_the_ratio_is_no_win(plain, text):
    halves = {"ours": {"reached": False, "seconds": 60.0}, "plain": {"reached": plain, "seconds": 120.0}}
    assert end_to_end.ratio(halves) == text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        # chi-squared's 95 % quantiles with 4 and 2 degrees of freedom are 9.488 and 5.991
        (1, "plain 1 in 300.0. That is one in at least 63 minutes of plain on average (95 %, one-sided), 4.2 times as"),
        (
            0,
            "plain 0 in 300.0. That is one in at least 100 minutes of plain on average (95 %, one-sided), 6.7 times as",
        ),
    ],
)
def test_totals_have_what_chance_leaves_of_them(found, text):
    ours = {"reached": True, "seconds": 900.0}
    repeats = {
        "0": {"ours": ours, "plain": {"reached": found == 1, "seconds": 9000.0}},
        "1": {"ours": ours, "plain": {"reached": False, "seconds": 9000.0}},
        "2": {"ours": {"reached": True, "seconds": 700.0}},  # not whole
    }
    assert f"`nas` came over the threshold 2 times in 30.0 minutes, {text}" in end_to_end.totals(repeats)


def test_totals_where_ours_was_never_over_the_threshold_claim_nothing():
    repeats = {"0": {"ours": {"reached": False, "seconds": 60.0}, "plain": {"reached": True, "seconds": 60.0}}}
    assert end_to_end.totals(repeats) == "In all, `nas` came over the threshold 0 times in 1.0 minutes, plain 1 in 1.0."


def test_ours_goes_on_until_a_new_winner_is_over_the_threshold(tmp_path, monkeypatch):
    """The same winner again is not trained again; all time counts."""
    winners = iter(["8 M 8 G C", "8 M 8 G C", "9 M 9 G C"])
    commands: list[list[str]] = []
    trained: list[str] = []

    def start(arguments: list[str], *, NAS_STUDIES: str) -> str:
        assert Path(NAS_STUDIES).parent == tmp_path
        commands.append(arguments)
        time.sleep(0.05)
        return ""

    def train(architecture: Any, training: Any, evaluation: Any, recipe: Any, *, seed: int, teacher_logits: Any) -> Any:
        assert teacher_logits is None
        assert evaluation is training.validation
        assert (seed, recipe.epochs) == (5, 15)
        trained.append(str(architecture))
        score = 99.45 if len(trained) == 2 else 99.4
        return argparse.Namespace(last=lambda epochs: score)

    found = data.DATASETS["synthetic"]
    whole = data.load_training_data(found, data_dir=None)
    monkeypatch.setattr(data, "prepare_dataset", lambda *_, **__: found)
    monkeypatch.setattr(data, "load_training_data", lambda *_, **__: whole)
    monkeypatch.setattr(end_to_end, "start", start)
    monkeypatch.setattr(end_to_end, "train", train)
    monkeypatch.setattr(
        end_to_end, "read_winner",
        lambda folder: argparse.Namespace(architecture=Architecture.parse(next(winners)), recipe={}),
    )  # fmt: skip
    half = end_to_end.run_ours(5, end_to_end.Options(), tmp_path)
    assert trained == ["8 M 8 G C", "9 M 9 G C"]
    options = end_to_end.Options()
    totals = [str(Settings.trials + options.more * turn) for turn in range(3)]
    assert [command[command.index("--trials") + 1] for command in commands] == totals
    assert [round["last5"] for round in half["rounds"]] == [99.4, 99.4, 99.45]
    assert half["reached"]
    assert half["seconds"] >= 0.15


def test_a_winner_is_distilled_from_its_teacher(monkeypatch):
    whole = toys.part(toys.synthetic(), 64)
    trained = []

    def train(
        architecture: Any, training: Any, evaluation: Any, recipe: Any, *, seed: int, teacher_logits: Any = None
    ) -> Any:
        shape = None if teacher_logits is None else tuple(teacher_logits.shape)
        trained.append((str(architecture), recipe.degrees, shape))
        return argparse.Namespace(state_dict=build(architecture).state_dict(), last=lambda epochs: 99.0)

    monkeypatch.setattr(end_to_end, "train", train)
    student = Architecture.parse("4 M 5 G C", input_shape=(1, 16, 16), num_classes=4)
    assert end_to_end.finish(student, Recipe(epochs=2, teacher="8 M 8 G C"), whole, 0) == 99.0
    assert trained == [("1x16x16: 8 M 8 G C4", 12.0, None), (str(student), 8.0, (2, 64, 4))]


def test_plain_is_held_to_the_validation_images_of_the_search(monkeypatch):
    found = data.DATASETS["synthetic"]
    monkeypatch.setattr(data, "prepare_dataset", lambda *_, **__: found)
    whole = data.load_training_data(found, data_dir=None, validation=None).train
    split = data.load_training_data(found, data_dir=None).validation
    assert torch.equal(whole.images[end_to_end.held_out()], split.images)
    assert torch.equal(whole.labels[end_to_end.held_out()], split.labels)


def test_what_is_timed_is_the_code_of_the_path_not_of_the_working_directory(tmp_path, monkeypatch):
    package = tmp_path / "nas"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('the working directory')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(end_to_end.__file__).parents[2]))
    assert "nas" in end_to_end.start([*end_to_end.NAS, "--version"])
