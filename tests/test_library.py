"""The library in a script: the same as on the command line, the caller left as it was, and every name at its door."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
import toys

import nas
from nas.errors import DataError, UsageError
from nas.searches import SearchResult, Settings

MACHINE = nas.Machine(workers=1, backend="torch", quiet=True, notify=lambda text: None)
SETTINGS = {"trials": 2, "finalists": 1, "finalist_seeds": 1, "finalist_epochs": 1}
BUDGET = nas.Budget(max_params=500, brief_epochs=1)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A tiny search from Python, and the studies folder that it wrote to."""
    folder = tmp_path_factory.mktemp("library") / "studies"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_STUDIES", str(folder))
        before = torch.get_num_threads(), torch.random.get_rng_state()
        level = optuna.logging.get_verbosity()
        result = nas.search(BUDGET, dataset="synthetic", study="tiny", machine=MACHINE, **SETTINGS)
        assert torch.get_num_threads() == before[0]
        assert torch.random.get_rng_state().equal(before[1])
        assert optuna.logging.get_verbosity() == level == optuna.logging.INFO
    return folder, result


@pytest.fixture(autouse=True)
def folder(searched, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(searched[0]))
    return searched[0]


def test_a_search_is_that_of_the_command_line(searched, tmp_path):
    result = searched[1]
    assert isinstance(result, SearchResult)
    assert not result.cut
    options = [f"--{key.replace('_', '-')}={value}" for key, value in SETTINGS.items()]
    arguments = ["search", "--max-params", "500", "--brief-epochs", "1", "--dataset", "synthetic", "--study", "tiny"]
    code, _, err = toys.nas(*arguments, *options, *toys.ONE_WORKER, "-q", NAS_STUDIES=str(tmp_path))
    assert code == 0, err
    best = tmp_path / "tiny" / "best"
    for name in ("architecture.json", "recipe.json", "model.py"):
        assert (best / name).read_bytes() == (result.folder / name).read_bytes()
    ours, theirs = (nas.load_network(each).state_dict for each in (result.folder, best))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAS_STUDIES", str(tmp_path))
        columns = ["number", "state", "value", "schedule", "loss"]
        other = nas.load_study("tiny")[columns]
    pd.testing.assert_frame_equal(other, nas.load_study("tiny")[columns])


def test_the_same_call_again_trains_nothing(searched):
    result = searched[1]
    again = nas.search(BUDGET, dataset="synthetic", study="tiny", machine=MACHINE, **SETTINGS)
    assert again.finalists == result.finalists
    assert again.reason.counts == result.reason.counts


def test_nothing_is_printed_when_quiet(capfd):
    nas.search(BUDGET, dataset="synthetic", study="tiny", machine=MACHINE, **SETTINGS)
    assert capfd.readouterr() == ("", "")


def test_a_full_run_is_evaluated_and_predicts(searched):
    run = nas.train_best("tiny", epochs=1, machine=MACHINE)
    assert run.result.schedule == searched[1].finalists[0].schedule
    assert run.result.epochs == 1
    assert nas.train_best(epochs=1, machine=MACHINE).seeds == run.seeds  # the latest study; its seed is stored
    evaluation = nas.evaluate(run.folder, machine=MACHINE)
    assert evaluation.agrees
    assert evaluation.same_images
    network = nas.load_network(run.folder)
    assert isinstance(network, nas.TrainedNetwork)
    images, labels = toys.synthetic().validation.images, toys.synthetic().validation.labels
    probabilities = network.predict(images)
    assert probabilities.shape == (len(images), 4)
    assert probabilities.sum(1).allclose(torch.ones(len(images)))
    assert (probabilities.argmax(1) == labels).float().mean() > 0.25
    assert network.predict(images / 255).allclose(probabilities, atol=1e-5)
    best = nas.load_network(searched[1].folder).predict(images)
    assert best.shape == probabilities.shape


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"trials": 0}, "trials is a whole number"), ({"nonsense": 1}, "unknown setting 'nonsense'"),
        ({"teacher": "8 M X"}, "unknown word 'X'"), ({"finalist_epochs": 20_000}, "epochs"),
        ({"study": "a/b"}, "plain folder name"),
        ({"brief_epochs": 0}, "brief_epochs"), ({"dataset": "nonsense"}, "unknown data set"),
        ({"timeout": -1.0}, "timeout is a number of seconds over 0"), ({"timeout": "soon"}, "such as 90s, 20m"),
        ({"timeout": float("nan")}, "timeout is"), ({"timeout": 1e10}, "ten years"), ({"trials": True}, "trials is a"),
        ({"sampler": "x"}, "sampler is guided, tpe or random, not 'x'"), ({"pruner": 3}, "pruner is median or none"),
        ({"seed": "a"}, "seed is a whole number from 0 to 2,147,483,647, not 'a'"), ({"seed": -1}, "seed is"),
        ({"recipe": "x"}, "recipe is a Recipe, not 'x'"), ({"dataset": 3}, "dataset is text or a path, not 3"),
        ({"target": "high"}, "target is a number over 0 and at most 100, not 'high'"), ({"target": 101}, "target is"),
        ({"metric": "f1"}, "metric is accuracy or balanced-accuracy"), ({"pareto": 1}, "pareto is True or False"),
        ({"augmentation": [1]}, "augmentation is a mapping from text to a number"), ({"teacher": 8}, "teacher is text"),
        ({"class_weights": 2}, "class_weights is a number from 0"), ({"machine": "cpu"}, "machine is a Machine"),
        ({"full_epochs": 1.5}, "full_epochs is"), ({"report": "x"}, "report is"), ({"tensorboard": 3}, "a path"),
        ({"nonsense": 1}, "choose of .*brief_epochs, .*teacher"), ({"budget": 500.5}, "budget is a Budget, a whole"),
        ({"budget": None}, "budget is"), ({"budget": True}, "budget is"), ({"budget": 0}, "max_params is a whole"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_usage_error(wrong, message, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=message):
        nas.search(**({"budget": 500, "dataset": "synthetic", "machine": MACHINE} | wrong))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": 0}, "workers is a whole number of 1 or more, not 0"), ({"workers": 2.0}, "workers is"),
        ({"device": "tpu"}, "tpu is none to train on: use auto, cpu"), ({"device": "meta"}, "meta is none"),
        ({"device": None}, "device is text"), ({"backend": "x"}, "backend is auto, kernels, torch or population"),
        ({"images": 28}, "images is a FolderOptions"), ({"notify": "x"}, "notify is a function"),
        ({"quiet": 1}, "quiet is True or False"),
    ],
)  # fmt: skip
def test_a_wrong_machine_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(UsageError, match=message):
        nas.Machine(**wrong)
    with pytest.raises(UsageError, match="crop is True or False, not 'yes'"):
        nas.FolderOptions(crop="yes")


FUNCTIONS = [name for name in nas.__all__ if inspect.isfunction(getattr(nas, name)) and name != "list_studies"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_refuses_an_argument_of_a_foreign_type(name):
    assert len(FUNCTIONS) >= 10
    function = getattr(nas, name)
    parameters = inspect.signature(function).parameters.values()
    needed = {each.name: each.default for each in parameters if each.kind is not each.VAR_KEYWORD}
    right = {key: "x" for key, default in needed.items() if default is inspect.Parameter.empty}
    for wrong in needed:
        with pytest.raises(UsageError, match=f"^{wrong} is .*, not <object obj"):
            function(**(right | {wrong: object()}))


def test_a_text_is_taken_for_a_path():
    assert nas.Machine(data_dir="~/sets").data_dir == Path("~/sets")
    with pytest.raises(nas.StorageError, match="no-such-folder"):
        nas.load_network("no-such-folder")
    with pytest.raises(UsageError, match="seeds is a whole number of 1 or more, not '3'"):
        nas.train_best(seeds="3")


def test_a_time_limit_is_a_number_or_a_text_as_on_the_command_line(searched):
    given = {"dataset": "synthetic", "study": "tiny", "machine": MACHINE, **SETTINGS}
    for limit in ("20m", 1200):
        assert nas.search(BUDGET, timeout=limit, **given).finalists == searched[1].finalists
        assert Settings.for_budget(BUDGET, toys.synthetic().dataset, timeout=limit).timeout == 1200


def test_help_tells_every_setting():
    own = {field.name for field in dataclasses.fields(Settings)} - {"budget", "dataset"}
    of_recipe_and_budget = {"teacher", "augmentation", "class_weights", "brief_epochs"}
    settings = list(nas.SearchSettings.__annotations__)
    assert set(settings) == own | of_recipe_and_budget
    lines = [line.split()[0] for line in nas.search.__doc__.splitlines() if line.strip()]
    assert [line for line in lines if line in settings] == settings
    assert inspect.signature(nas.search).parameters["settings"].annotation == "Unpack[SearchSettings]"


def test_a_path_is_a_folder_of_own_images(tmp_path):
    with pytest.raises(DataError, match=r"leaves is not there: give a folder of class folders"):
        nas.search(900, dataset=tmp_path / "leaves")


def test_a_result_is_shown_in_a_line_or_two(searched):
    run = nas.train_best("tiny", epochs=1, machine=MACHINE)
    for each in (searched[1], run, nas.evaluate(run.folder, machine=MACHINE), nas.load_network(run.folder)):
        assert len(repr(each)) < 400
    schedule, folder = searched[1].finalists[0].schedule, str(searched[1].folder)
    assert all(part in repr(searched[1]) for part in ("'tiny'", repr(schedule), "num_params=", folder))
    assert all(part in repr(run) for part in ("'tiny'", repr(schedule), "last5_mean=", str(run.folder)))


def test_search_is_the_function_whatever_is_imported():
    script = "import nas, nas.searches, nas.cli.search; assert nas.search.__module__ == 'nas.library.searching'"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_there_and_importing_the_package_loads_nothing():
    script = "import sys, nas; assert not {'torch', 'optuna', 'pandas', 'numpy'} & set(sys.modules); print(dir(nas))"
    assert all(getattr(nas, name) is not None for name in nas.__all__)
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert set(nas.__all__) <= set(eval(ran.stdout))
