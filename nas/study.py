"""Where a study lives, what it records, and how it is read; it stays an ordinary Optuna study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, event
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from nas.errors import StorageError, UsageError
from nas.space import DISCARDS

if TYPE_CHECKING:
    import pandas as pd

optuna.logging.set_verbosity(optuna.logging.WARNING)

DATABASE = "study.db"
SETTINGS = "settings"
"""The user attribute with what a resumed study must share."""

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def studies_dir() -> Path:
    """`NAS_STUDIES`, or `studies` in the working directory."""
    return Path(os.environ.get("NAS_STUDIES") or "studies")


def folder(name: str) -> Path:
    """The folder of a study. Raises `UsageError` for a name that is no plain folder name."""
    if not name or name != Path(name).name or name.startswith("."):
        raise UsageError(f"a study's name is a plain folder name, not '{name}'")
    return studies_dir() / name


def finalists_name(name: str) -> str:
    """The study of the finalists, in the same database."""
    return f"{name}/finalists"


def database(name: str) -> str:
    """The storage URL of a study that lives in its own folder."""
    return f"sqlite:///{folder(name) / DATABASE}"


def names() -> list[str]:
    """Studies with a database under the studies folder, the latest last."""
    files = sorted(studies_dir().glob(f"*/{DATABASE}"), key=lambda path: path.stat().st_mtime)
    return [path.parent.name for path in files]


def latest() -> str:
    """The study last written to; raises `StorageError` when there is none."""
    if not (found := names()):
        raise StorageError(f"no study in {studies_dir().resolve()}: run nas search --max-params 8000 first")
    return found[-1]


def create(name: str, storage: str | None, settings: Mapping[str, Any], record: Mapping[str, Any]) -> optuna.Study:
    """The study of this name, made or resumed.

    `settings` must equal those the study was made with; `record` is kept besides. Raises `UsageError` naming the first
    key that differs, `StorageError` for a database that cannot be used.
    """
    try:  # with a storage elsewhere too: weights and the winner go here
        folder(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder(name)} ({error.strerror}): free it, or set NAS_STUDIES") from error
    url = storage or database(name)
    with storage_errors(url):
        opened = _storage(url)
        _claim_once(opened)
        study = optuna.create_study(study_name=name, storage=opened, direction="maximize", load_if_exists=True)
        known = study.user_attrs.get(SETTINGS)
        if known is None:
            for key, value in record.items():
                study.set_user_attr(key, value)
            study.set_user_attr(SETTINGS, dict(settings))  # last: with it, the record is whole
            return study
    ours = json.loads(json.dumps(settings))  # as they come back from the database
    for key in sorted(known.keys() | ours.keys()):
        if known.get(key) != ours.get(key):
            raise UsageError(
                f"the study '{name}' was made with {key} = {known.get(key)}, not {ours.get(key)}: "
                "give the same, or another --study"
            )
    return study


def open_study(name: str, storage: str | None = None) -> optuna.Study:
    """A study that is there. Raises `StorageError` when it is not, or cannot be read."""
    if storage is None and not (folder(name) / DATABASE).is_file():
        known = ", ".join(names()) or "there is none"
        raise StorageError(f"no study '{name}' in {studies_dir().resolve()} ({known}): run nas search, or name another")
    url = storage or database(name)
    with storage_errors(url):
        try:
            return optuna.load_study(study_name=name, storage=_storage(url))
        except KeyError:
            raise StorageError(f"no study '{name}' in {redact(url)}: run nas search, or name another") from None


def finalists(study: optuna.Study) -> optuna.Study:
    """The second study of the same storage, which `study` points to; made when it is not there."""
    name = finalists_name(study.study_name)
    with storage_errors(study.study_name):
        second = optuna.create_study(study_name=name, storage=study._storage, direction="maximize", load_if_exists=True)
        if study.user_attrs.get("finalists") != name:
            study.set_user_attr("finalists", name)
        return second


def load_study(name: str | None = None, storage: str | None = None) -> pd.DataFrame:
    """The trials of a study (the latest without a name), one row each, as a pandas DataFrame.

    Columns: `number`, `state`, `value` (validation accuracy in percent of the last epoch), `schedule`, `num_params`,
    `macs`, `loss` (on the validation split, of the last epoch: what ranks trials), `seconds`, `seed`, `known` (the name
    of a published design), `reason` (of a failure), `epochs` (trained), and the sampled parameters as `params_...`.
    """
    return frame(open_study(name or latest(), storage))


def frame(study: optuna.Study) -> pd.DataFrame:
    """`load_study` of an open study."""
    import pandas as pd

    with storage_errors(study.study_name):
        trials = study.get_trials(deepcopy=False)
    columns = ("schedule", "num_params", "macs", "loss", "seconds", "seed", "known", "reason")
    rows = []
    for trial in trials:
        row: dict[str, Any] = {"number": trial.number, "state": trial.state.name, "value": trial.value}
        row |= {column: trial.user_attrs.get(column) for column in columns}
        row["epochs"] = len(trial.intermediate_values)
        rows.append(row | {f"params_{key}": value for key, value in sorted(trial.params.items())})
    head = ["number", "state", "value", *columns[:4], "epochs", *columns[4:]]
    table = pd.DataFrame(rows, columns=head if not rows else None)
    table = table[[*head, *(column for column in table.columns if column not in head)]]
    kinds = {"num_params": "Int64", "macs": "Int64", "seed": "Int64", "value": "float64", "loss": "float64"}
    return table.astype(kinds)


def counts(study: optuna.Study) -> dict[str, int]:
    """Every schedule accounted for: generated = discards by reason + trials of every state (duplicates of none)."""
    with storage_errors(study.study_name):
        trials = study.get_trials(deepcopy=False)
    discards = {
        reason: sum(trial.user_attrs.get("discards", {}).get(reason, 0) for trial in trials) for reason in DISCARDS
    }
    states = {state.name.lower(): sum(trial.state == state for trial in trials) for state in TrialState}
    shrunk = sum(bool(trial.user_attrs.get("shrunk")) for trial in trials)
    return {"generated": sum(discards.values()) + len(trials), **discards, **states, "shrunk to fit": shrunk}


def pareto_front(table: pd.DataFrame) -> pd.DataFrame:
    """The complete trials whose loss no smaller one matches, by parameters: losses rank trials, see `sampler.rank`."""
    complete = table[table["state"] == "COMPLETE"].sort_values(["num_params", "loss"])
    return complete[complete["loss"] < complete["loss"].cummin().shift(fill_value=float("inf"))]


def environment(device: str) -> dict[str, Any]:
    """Versions and hardware, for the record."""
    from nas.train import cores  # late: a study is read without torch

    packages = ("torch", "torchvision", "optuna", "numba", "numpy", "pandas")
    return {
        "nas": version("nas"),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(device),
        "cores": cores(),
        "device": device,
        "command": shlex.join(["nas", *sys.argv[1:]]),
        "time": now(),
    }


def now() -> str:
    """UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def owner() -> str:
    """Who runs a trial: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def is_stale(trial: FrozenTrial, *, seconds: float) -> bool:
    """Whether a running trial's owner is gone: a dead process of this host, or silent for `seconds`."""
    host, _, pid = str(trial.user_attrs.get("owner", ":")).rpartition(":")
    if host == socket.gethostname() and pid.isdigit() and not _alive(int(pid)):
        return True
    stamp = trial.user_attrs.get("stamp")
    began = datetime.fromisoformat(stamp) if stamp else (trial.datetime_start or datetime.now()).astimezone()
    return (datetime.now(UTC) - began).total_seconds() > seconds


def digest(text: str) -> str:
    """A short stable name for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def redact(url: str) -> str:
    """A storage URL without its password."""
    scheme, _, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{host}" if at else url


@contextlib.contextmanager
def storage_errors(where: str) -> Iterator[None]:
    """Turn the failures of a database into a one-line `StorageError`."""
    try:
        yield
    except optuna.exceptions.UpdateFinishedTrialError as error:
        raise StorageError(
            "a trial of this search was given up by another process, which had not heard of it for minutes: "
            "run the same command again to go on"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or getattr(error, "orig", None) or error
        first = (str(getattr(cause, "orig", None) or cause).splitlines() or [type(cause).__name__])[0]
        raise StorageError(
            f"the study's storage {redact(where)} cannot be used ({first}): "
            "check the disk, move a damaged file away, or give another --study or --storage"
        ) from error


def _storage(url: str) -> optuna.storages.RDBStorage:
    """Waits up to a minute for another process's lock."""
    arguments = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        for _ in range(20):
            try:
                return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
            except (OperationalError, IntegrityError) as error:
                if isinstance(error, OperationalError) and "already exists" not in str(error):
                    raise
                time.sleep(0.5)  # another process is making the same tables: they are there in a moment
        return optuna.storages.RDBStorage(url, engine_kwargs=arguments)
    except (ImportError, RuntimeError) as error:  # no driver for it; the tables of another Optuna
        cause = str(error.__cause__ or error).splitlines()[0]
        raise StorageError(f"the storage {redact(url)} cannot be used ({cause}): give another --storage") from error


def _claim_once(storage: optuna.storages.RDBStorage) -> None:
    """Take SQLite's write lock at the beginning of every transaction, not at its first change.

    SQLite knows no SELECT FOR UPDATE, with which Optuna keeps two processes from starting the same waiting trial: both
    read that it waits, and both train it.
    """
    if storage.engine.name == "sqlite":

        @event.listens_for(storage.engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _processor(device: str) -> str:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
