"""A study in optuna-dashboard: a note with its answer, and report, drawings and card with its winner's trial."""

from __future__ import annotations

import contextlib
import io
import mimetypes
import uuid
from importlib.util import find_spec
from typing import Any

from optuna.artifacts import FileSystemArtifactStore

from nas.budget import last_epochs
from nas.errors import NasError
from nas.report.findings import Findings
from nas.report.pictures import PICTURES
from nas.report.svg import svg_file
from nas.report.tables import account, score_of
from nas.study import StudyStore, make_folder, study_folder

ARTIFACTS = "artifacts"
"""The folder in a study's folder."""

ATTACHED = "attached"
"""The study's attribute with the trial that has the artifacts."""

REPORT = "report.html"
DRAWINGS = ("layers", "parameters")
"""Pictures that need no images: these would be read and predicted once more."""
SIGNATURE = "*Written by `nas`: a note of your own in its place stays.*"
"""The end of a note; one without it is the user's, and is left alone."""


def artifact_store(store: StudyStore) -> FileSystemArtifactStore:
    """Return the store of a study's artifacts, a folder beside its other files."""
    folder = study_folder(store.base) / ARTIFACTS
    make_folder(folder)
    return FileSystemArtifactStore(folder)


def publish(found: Findings, storage: str | None) -> None:
    """Bring note and artifacts of a search up to date with what was read of it, where optuna-dashboard is installed.

    Raise `NasError` for a study that cannot be read or written.
    """
    if find_spec("optuna_dashboard") is None:
        return
    store = StudyStore.open(found.folder.name, storage)  # of a copied folder, not the name in its database
    if found.winner_trial is not None:
        _attach(store, found)
    _write_note(store, found)


def _attach(store: StudyStore, found: Findings) -> None:
    """Put the files of the winner into the artifact store; those of an earlier winner are no longer listed."""
    artifacts, winner = artifact_store(store), found.winner_trial
    assert winner is not None
    before = store.attrs.get(ATTACHED, {})
    files = _files(found)
    names = {name: str(uuid.uuid5(uuid.NAMESPACE_OID, f"{store.name}/{name}")) for name in files}
    if before and before.get("trial") != winner:
        for artifact_id in before.get("files", {}).values():
            store.attach(before["trial"], artifact_id, None)
    for name, content in files.items():
        artifacts.write(names[name], io.BytesIO(content))
        kind = mimetypes.guess_type(name)[0] or "text/plain"
        store.attach(winner, names[name], {"artifact_id": names[name], "filename": name, "mimetype": kind})
    store.set_attr(ATTACHED, {"trial": winner, "files": names})


def _files(found: Findings) -> dict[str, bytes]:
    """Return the files to attach, by name."""
    paths = [found.folder / REPORT, *([] if found.run is None else [found.run.folder / "CARD.md"])]
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    for name in DRAWINGS:
        with contextlib.suppress(NasError):
            chart = PICTURES[name](found)
            if chart is not None:
                files[f"{name}.svg"] = svg_file(chart).encode()
    return files


def _write_note(store: StudyStore, found: Findings) -> None:
    from optuna_dashboard import get_note, save_note

    study: Any = store.study
    with store.errors():
        old, new = get_note(study), note_of(found)
        if old != new and (not old.strip() or old.rstrip().endswith(SIGNATURE)):
            save_note(study, new)


def note_of(found: Findings) -> str:
    """Return the answer in Markdown."""
    lines = [f"# {found.name.replace('`', '')}", ""]
    architecture = found.architecture
    if architecture is None:
        lines.append("No trial is complete yet.")
    else:
        standing = "Winner" if found.reason is not None else "Leads so far"
        lines.append(f"**{standing}**: trial {found.winner_trial}, `{found.schedule}`")
        lines.append(f"- {architecture.num_params:,} parameters, {architecture.macs:,} MACs for one image")
    if found.reason is not None and found.reason.finalists:
        row = found.reason.finalists[0]
        between = "" if row.interval is None else ", 95 % interval {:.2f} to {:.2f}".format(*row.interval)
        lines.append(
            f"- validation: {row.mean:.3f} % ({score_of(found.reason)}; n = {len(row.scores)}{between})",
        )
    if found.run is not None:
        result = found.run.result
        sd = "" if result.last5_sd is None else f" ± {result.last5_sd:.3f}"
        lines.append(
            f"- test: {last_epochs(result.epochs)} {result.last5_mean:.3f}{sd} % (n = {len(result.seeds)}), lowest "
            f"epoch of them {result.lowest_of_last5:.2f} %"
        )
    return "\n".join([*lines, "", account(found.counts), "", SIGNATURE, ""])
