"""The library in a script: the same as on the command line, the caller left as it was, and every name at its door."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd
import pytest
import torch
import toys

import nas
from nas.errors import UsageError
from nas.searches import SearchResult

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
        result = nas.search(BUDGET, dataset="synthetic", study="tiny", machine=MACHINE, **SETTINGS)
        assert torch.get_num_threads() == before[0]
        assert torch.random.get_rng_state().equal(before[1])
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
        ({"machine": nas.Machine(device="meta")}, "device"), ({"timeout": -1.0}, "time limit"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_a_usage_error(wrong, message, tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_STUDIES", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=message):
        nas.search(500, **({"dataset": "synthetic", "machine": MACHINE} | wrong))
    assert not (tmp_path / "none").exists()


def test_search_is_the_function_whatever_is_imported():
    script = "import nas, nas.searches, nas.cli.search; assert nas.search.__module__ == 'nas.library.searching'"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_is_there_and_importing_the_package_loads_nothing():
    script = "import sys, nas; assert not {'torch', 'optuna', 'pandas', 'numpy'} & set(sys.modules); print(dir(nas))"
    assert all(getattr(nas, name) is not None for name in nas.__all__)
    ran = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert set(nas.__all__) <= set(eval(ran.stdout))
