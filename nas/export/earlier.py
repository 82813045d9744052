"""An earlier export in a folder: what may be replaced, and what of it is the user's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from nas.errors import StorageError
from nas.export.folder import ARCHITECTURE, require_own
from nas.export.load import MANIFEST
from nas.export.target_names import TARGETS
from nas.files import damaged, from_json, read_json, require_place


def file_digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below a folder, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def require_replaceable(folder: Path, targets: Sequence[str]) -> None:
    """Raise `StorageError` if the folder holds anything but files that an earlier export wrote to the same targets."""
    require_place(folder, folder=True)
    require_own(folder, MANIFEST)
    if not (folder / MANIFEST).is_file():
        return
    manifest = read_json(folder / MANIFEST)
    try:
        before = {name: each["files"] for name, each in manifest["targets"].items()}
        digests = from_json(dict[str, str], manifest.get("digests", {}), "digests")  # an earlier version wrote none
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise damaged(folder / MANIFEST, "it does not name the files of its targets") from error
    if left := [name for name in TARGETS if name in before and name not in targets]:
        raise StorageError(
            f"{folder} holds an export to {', '.join(left)} too, which would be deleted: name another folder, or give "
            "--to all of them"
        )
    own = {ARCHITECTURE, "architecture.txt", MANIFEST, *(file for files in before.values() for file in files)}
    files = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if not path.is_dir())
    if others := [path.as_posix() for path in files if path.as_posix() not in own and "__pycache__" not in path.parts]:
        raise StorageError(
            f"{folder} holds {others[0]}, which no export wrote and which would be deleted: name another folder, or "
            "move it away"
        )
    found = file_digests(folder)
    if changed := [name for name in digests if name in found and found[name] != digests[name]]:
        raise StorageError(
            f"{folder} holds {changed[0]}, which was changed after the export wrote it and would be replaced: name "
            "another folder, or move it away"
        )
