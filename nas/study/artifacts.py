"""Weights where every machine of a study finds them: Optuna's artifact store, in a shared folder or an S3 bucket."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from optuna.artifacts import (
    Boto3ArtifactStore,
    FileSystemArtifactStore,
    download_artifact,
    get_all_artifact_meta,
    upload_artifact,
)
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial

from nas.errors import StorageError, UsageError
from nas.study.interrupts import interruptible
from nas.study.store import ClaimedTrial, StudyStore

S3 = "s3://"

PROBE = ".nas-probe"
"""An empty artifact, written to see that a place can be written to."""

CONNECT_SECONDS, READ_SECONDS = 10, 30
"""For how long a bucket's server may be silent, at each of the tries that boto3 makes."""


def use_artifacts(store: StudyStore, place: str | None) -> None:
    """Have the study keep its weights in a folder or `s3://BUCKET/PREFIX` as well; it remembers that.

    Raise `UsageError` for another place than the study has, `StorageError` where it cannot be used.
    """
    if place is None:
        if store.artifacts is not None:
            _require_writable(store.artifacts)  # refused now, not when the first trial ends
        return
    if place.startswith(S3):
        place = S3 + place.removeprefix(S3).rstrip("/")
    elif "://" not in place:
        place = str(Path(place).expanduser().resolve())
    if store.artifacts not in (None, place):
        raise UsageError(f"the study '{store.name}' keeps its weights in {store.artifacts}, not {place}: give that")
    _require_writable(place)
    store.set_artifacts(place)


def share_file(store: StudyStore, path: Path, trial: ClaimedTrial | None = None) -> str | None:
    """Copy a file of a running trial, or of the study, to where all machines find it; return its id, or None."""
    if store.artifacts is None:
        return None
    owner = store.study if trial is None else store.stored(trial)
    with _errors(store.artifacts), store.errors():
        return upload_artifact(
            artifact_store=_Place(store.artifacts), file_path=str(path), study_or_trial=owner, storage=store.storage
        )


def fetch_file(store: StudyStore, path: Path, trial: FrozenTrial) -> bool:
    """Bring a trial's file of that name here, where it is not; return whether it is here."""
    if path.is_file() or store.artifacts is None:
        return path.is_file()
    with store.errors():
        found = get_all_artifact_meta(trial, storage=store.storage)
    named = (meta.artifact_id for meta in found if meta.filename == path.name)
    return any(fetch_artifact(store, artifact, path) for artifact in named)


def fetch_artifact(store: StudyStore, artifact: str, path: Path) -> bool:
    """Bring an artifact here; return False where it was announced and never written."""
    assert store.artifacts is not None
    part = path.with_name(f".{path.name}.part")
    try:
        with _errors(store.artifacts):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            with interruptible():
                download_artifact(
                    artifact_store=_Place(store.artifacts), artifact_id=artifact, file_path=str(part)
                )  # fmt: skip
            part.replace(path)
    except ArtifactNotFound:
        return False
    return True


class _Place:
    """Optuna's store for a folder, or for a bucket and the beginning of the names in it.

    It may be far away or silent: while it is waited for, a signal raises at once. What is then half written has been
    announced, and belongs to no finished trial.
    """

    def __init__(self, place: str) -> None:
        self._prefix = ""
        if not place.startswith(S3):
            if "://" in place:
                raise UsageError(f"--artifacts is a folder or s3://BUCKET/PREFIX, not {place}")
            Path(place).mkdir(parents=True, exist_ok=True)
            self._store: FileSystemArtifactStore | Boto3ArtifactStore = FileSystemArtifactStore(place)
            return
        bucket, _, prefix = place.removeprefix(S3).partition("/")
        if not bucket:
            raise UsageError(f"--artifacts is a folder or s3://BUCKET/PREFIX, not {place}")
        self._store, self._prefix = _bucket(bucket), f"{prefix}/" if prefix else ""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        with interruptible():
            return self._store.open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        with interruptible():
            self._store.write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        with interruptible():
            self._store.remove(self._prefix + artifact_id)


def _bucket(name: str) -> Boto3ArtifactStore:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise UsageError("--artifacts s3://BUCKET needs boto3: pip install 'nas[s3]'") from None
    patience = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS)
    try:
        return Boto3ArtifactStore(name, boto3.client("s3", config=patience))
    except ValueError as error:  # AWS_ENDPOINT_URL
        raise UsageError(f"the server of s3://{name} has no valid address: {error}") from None


def _require_writable(place: str) -> None:
    with _errors(place):
        found = _Place(place)
        found.write(PROBE, io.BytesIO())
        with contextlib.suppress(Exception):  # another search may have removed it, or nobody may remove anything
            found.remove(PROBE)


@contextlib.contextmanager
def _errors(place: str) -> Iterator[None]:
    """Turn a folder or a bucket that cannot be used into one line."""
    try:
        yield
    except (UsageError, StorageError, ArtifactNotFound):
        raise
    except Exception as error:  # of a service: each client library has its own
        if not isinstance(error, OSError) and not type(error).__module__.startswith(("boto", "s3transfer")):
            raise
        cause = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(
            f"the artifacts in {place} cannot be used ({cause}): make that place reachable and run the command again"
        ) from error
