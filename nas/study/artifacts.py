"""Weights where every machine of a study finds them: Optuna's artifact store, in a shared folder or an S3 bucket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from optuna.artifacts import (
    Backoff,
    Boto3ArtifactStore,
    FileSystemArtifactStore,
    download_artifact,
    get_all_artifact_meta,
    upload_artifact,
)
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import FrozenTrial

from nas.errors import StorageError, UsageError
from nas.study.store import ClaimedTrial, StudyStore

S3 = "s3://"


def use_artifacts(store: StudyStore, place: str | None) -> None:
    """Have the study keep its weights in a folder or `s3://BUCKET` as well; it remembers that.

    Raise `UsageError` for another place than the study has, `StorageError` where it cannot be used.
    """
    if place is None:
        if store.artifacts is not None:
            _open(store.artifacts)  # refused now, not when the first trial ends
        return
    place = place if place.startswith(S3) else str(Path(place).expanduser().resolve())
    if store.artifacts not in (None, place):
        raise UsageError(f"the study '{store.name}' keeps its weights in {store.artifacts}, not {place}: give that")
    _open(place)
    store.set_artifacts(place)


def share_file(store: StudyStore, path: Path, trial: ClaimedTrial | None = None) -> str | None:
    """Copy a file of a running trial, or of the study, to where all machines find it; return its id, or None."""
    if store.artifacts is None:
        return None
    owner = store.study if trial is None else store.stored(trial)
    with _errors(store.artifacts), store.errors():
        return upload_artifact(
            artifact_store=_open(store.artifacts), file_path=str(path), study_or_trial=owner, storage=store.storage
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
            download_artifact(artifact_store=_open(store.artifacts), artifact_id=artifact, file_path=str(part))
            part.replace(path)
    except ArtifactNotFound:
        return False
    return True


def _open(place: str) -> Backoff:
    with _errors(place):
        if not place.startswith(S3):
            Path(place).mkdir(parents=True, exist_ok=True)
            return Backoff(FileSystemArtifactStore(place), max_retries=2)
        bucket = place.removeprefix(S3).rstrip("/")
        if not bucket or "/" in bucket:
            raise UsageError(f"--artifacts is a folder or s3://BUCKET, not {place}")
        try:
            return Backoff(Boto3ArtifactStore(bucket), max_retries=4)
        except ImportError:
            raise UsageError("--artifacts s3://BUCKET needs boto3: pip install 'nas[s3]'") from None


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
