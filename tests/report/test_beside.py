"""What stands beside a search: a page kept fresh, TensorBoard's event files, optuna-dashboard's note and artifacts."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import urllib.request
from functools import partial
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
import reports
import toys

from nas.errors import StorageError, UsageError
from nas.report import FreshReport, TensorBoard, artifact_store, publish, read_findings
from nas.report import fresh as fresh_page
from nas.report.dashboard import SIGNATURE, note_of
from nas.report.tensorboard import hyperparameters
from nas.searches import Search
from nas.study import StudyStore
from nas.train import Recipe, Run
from nas.workers import EpochMessage, FailureMessage, RunMessage, TrainJob

# --- a fresh page -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_page_is_written_again_after_a_change_and_its_process_ends(folder):
    toys.run(toys.Pool(), trials=3)
    page = folder / "toy" / "report.html"
    with FreshReport("toy", None, None, seconds=0.1) as fresh:
        toys.until(page.is_file, 90)
        page.unlink()
        toys.run(toys.Pool(), store=toys.open_study(chosen=toys.settings(trials=5)), trials=5)
        toys.until(page.is_file, 90)
        process = fresh._process
        assert process.poll() is None
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    assert process.poll() is not None
    assert "Accuracy against parameters" in page.read_text(encoding="utf-8")


def test_the_page_waits_many_times_as_long_as_it_takes(folder, monkeypatch):
    toys.run(toys.Pool(), trials=3)
    naps, pages = [], []

    class Enough(Exception):
        pass

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            raise Enough

    given = json.dumps({"study": "toy", "storage": None, "data_dir": None, "seconds": 0.0}) + "\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    monkeypatch.setattr(fresh_page, "_end_with_parent", lambda: None)
    monkeypatch.setattr("os.nice", lambda _: 0)
    monkeypatch.setattr(fresh_page.time, "sleep", sleep)
    monkeypatch.setattr("nas.report.page.write_report", lambda *_, **__: pages.append(1))
    with pytest.raises(Enough):
        fresh_page.serve()
    assert len(pages) == 1  # nothing changed since
    assert min(naps) > 0


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def scalars(folder: Path, *, purge: bool = True) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a run as TensorBoard's own reader has them."""
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install tensorboard"
    )
    found = reader.EventAccumulator(str(folder), purge_orphaned_data=purge)
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


every_scalar = partial(scalars, purge=False)
"""What TensorBoard hides, where steps begin anew, as well."""


def test_a_search_writes_scalars_of_every_epoch(folder, tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    chosen, board = toys.settings(trials=4), TensorBoard(tmp_path / "toy")
    store = toys.open_study(chosen=chosen)
    search = Search(store, toys.space(), chosen, toys.Pool(2), lambda *_: None, observe=board.trial)
    search.run(toys.synthetic(), toys.provenance())
    board.close()
    for trial in store.refresh().trials():
        found = scalars(tmp_path / "toy" / f"trial-{trial.number}")
        curve = [(step, pytest.approx(value)) for step, value in sorted(trial.intermediate_values.items())]
        assert found["validation/accuracy"] == curve
        assert found["hparam/loss"][0][1] == pytest.approx(trial.user_attrs["loss"], rel=1e-4)
        assert len(found["train/loss"]) == len(curve)
    finals = {path.name for path in (tmp_path / "toy").glob("finalist-*")}
    table = store.finalists().refresh()
    assert finals == {f"finalist-{t.params['candidate']}-seed-{t.params['seed']}" for t in table.trials()}


def test_a_full_run_is_of_the_test_split_and_a_failure_ends_a_run(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from nas.architecture import Architecture
    from nas.train import Epoch

    epoch = Epoch(number=1, train_loss=0.5, train_accuracy=90.0, loss=0.25, correct=285, count=300, seconds=1.25)
    network = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
    jobs = {key: TrainJob(key=key, architecture=network, recipe=Recipe(epochs=1), seed=0) for key in (0, "teacher")}
    shown, board = [], TensorBoard(tmp_path)
    each = board.beside(shown.append)
    for job in jobs.values():
        each(EpochMessage(worker=0, job=job, epoch=epoch))
    run = Run(epochs=(epoch,), state_dict={}, backend="toy", seconds=1.0, stopped=False)
    each(RunMessage(worker=0, job=jobs[0], run=run))
    each(FailureMessage(worker=0, job=jobs["teacher"], reason="the loss is nan", killed=False))
    board.close()
    assert len(shown) == 4
    assert scalars(tmp_path / "seed-0")["test/accuracy"] == [(1, 95.0)]
    assert "test/accuracy" not in scalars(tmp_path / "teacher")
    table = hyperparameters(jobs[0])
    assert (table["schedule"], table["num_params"], table["epochs"]) == (str(network), network.num_params, 1)


def test_epochs_that_a_resumed_training_tells_again_are_written_once(tmp_path):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from nas.architecture import Architecture
    from nas.train import Epoch

    network = Architecture.parse("4v M 6 G C", input_shape=(1, 16, 16), num_classes=4)
    job = TrainJob(key=0, architecture=network, recipe=Recipe(epochs=3), seed=0)
    first = Epoch(number=1, train_loss=0.5, train_accuracy=90.0, loss=0.25, correct=285, count=300, seconds=1.1)
    epochs = [dataclasses.replace(first, number=number, seconds=1.1 * number) for number in (1, 2, 3)]
    for told in (epochs[:2], epochs):  # killed after two, and taken up again
        board = TensorBoard(tmp_path)
        for epoch in told:
            board.beside(lambda _: None)(EpochMessage(worker=0, job=job, epoch=epoch))
        board.close()
    found = every_scalar(tmp_path / "seed-0")
    assert found.keys() == {"train/loss", "train/accuracy", "test/loss", "test/accuracy", "seconds"}
    assert all([step for step, _ in values] == [1, 2, 3] for values in found.values())
    board = TensorBoard(tmp_path)  # another measurement is written, whatever its number
    board.beside(lambda _: None)(EpochMessage(worker=0, job=job, epoch=dataclasses.replace(epochs[0], seconds=9.0)))
    board.close()
    assert len(every_scalar(tmp_path / "seed-0")["seconds"]) == 4


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="give another folder to --tensorboard"):
        TensorBoard(tmp_path / "file" / "below")
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'nas\[tensorboard\]'"):
        TensorBoard(tmp_path)


# --- optuna-dashboard -------------------------------------------------------------------------------------------------


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(folder):
    """What optuna-dashboard answers for the toy study, by path."""
    dashboard = pytest.importorskip("optuna_dashboard", reason="pip install optuna-dashboard")
    store = toys.open_study()
    app = dashboard.wsgi(StudyStore.open("toy").storage, artifact_store=artifact_store(store))
    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    Thread(target=server.serve_forever, daemon=True).start()

    def get(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}{path}", timeout=30) as answer:
            return answer.read()

    yield get
    server.shutdown()
    server.server_close()


def test_the_winner_has_its_files_and_the_study_its_answer(folder, served):
    found = reports.searched()
    run = reports.add_run(found)
    (run / "CARD.md").write_text("# a card\n")
    (folder / "toy" / "report.html").write_text("<p>a page</p>")
    for _ in range(2):  # twice is once
        publish(read_findings("toy"), None)
    answer = json.loads(served(f"/api/studies/{_id(served)}"))
    (trial,) = [each for each in answer["trials"] if each["number"] == found.winner_trial]
    names = sorted(each["filename"] for each in trial["artifacts"])
    assert names == ["CARD.md", "layers.svg", "parameters.svg", "report.html"]
    assert all(each["artifacts"] == [] for each in answer["trials"] if each is not trial)
    page = next(each for each in trial["artifacts"] if each["filename"] == "report.html")
    assert served(f"/artifacts/{_id(served)}/{trial['trial_id']}/{page['artifact_id']}") == b"<p>a page</p>"
    note = answer["note"]["body"]
    assert found.schedule in note
    assert "95 % interval" in note
    assert "- test: last-5" in note


def _id(served):
    studies = json.loads(served("/api/studies"))["study_summaries"]
    return next(each["study_id"] for each in studies if each["study_name"] == "toy")


def test_a_note_of_the_users_own_stays_and_a_new_winner_takes_over(folder, served):
    from optuna_dashboard import get_note, save_note

    first = reports.searched(trials=4)
    publish(read_findings("toy"), None)
    store = StudyStore.open("toy")
    assert get_note(store.study).rstrip().endswith(SIGNATURE)
    toys.run(toys.Pool(), store=toys.open_study(chosen=toys.settings(trials=9)), trials=9)
    publish(read_findings("toy"), None)
    found = read_findings("toy")
    assert found.schedule in get_note(store.study)
    if found.winner_trial != first.winner_trial:
        answer = json.loads(served(f"/api/studies/{_id(served)}"))
        having = [each["number"] for each in answer["trials"] if each["artifacts"]]
        assert having == [found.winner_trial]
    save_note(store.study, "my own words")
    publish(read_findings("toy"), None)
    assert get_note(store.study) == "my own words"


def test_a_study_without_an_answer_has_a_note_that_says_so(folder):
    toys.open_study()
    assert "No trial is complete yet" in note_of(read_findings("toy"))
    publish(read_findings("toy"), None)
    assert not any((folder / "toy").glob("artifacts/*"))
