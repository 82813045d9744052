"""The files of own images by split, for a program that reads them without the tool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nas.data.folder_options import FolderOptions
from nas.data.folder_scan import scan_folder
from nas.data.manifest import Manifest
from nas.data.own_sets import find_own_set, manifests_dir, read_tensors
from nas.data.pictures import Pixels, decode_file
from nas.errors import DataError


@dataclass(frozen=True, kw_only=True)
class OwnFiles:
    """The image files of a folder by split, each as its path below `source` and its class."""

    source: Path
    options: FolderOptions
    train: tuple[tuple[str, str], ...]
    """Those for training, and for validation where the folder sets some aside."""
    test: tuple[tuple[str, str], ...]

    def read(self, name: str) -> Pixels:
        """Return a file's pixels (C, H, W) as the tool reads them."""
        return decode_file(self.source / name, self.options)


def own_files(name: str) -> OwnFiles | None:
    """Return the files of own images by the data set's name; None where no such images are known on this machine.

    Raise `DataError` for images that are no files, and for a folder that has changed since it was read.
    """
    record = find_own_set(name)
    if record is None:
        return None
    source = Path(record.source)
    if not record.stamp:
        raise DataError(f"the images of {name} are arrays in {source}: save them as a folder for each class")
    if not source.is_dir() or (scan := scan_folder(source)).stamp != record.stamp:
        raise DataError(f"{source} is not as it was when it was read: bring its files back, or train on it as it is")
    parts = {file: fields[6] for file, fields in Manifest.open(manifests_dir(), source).files.items()}
    tensors = read_tensors(record.key)
    unread = tensors.failures if tensors is not None else {}
    listed = [(file.name, file.label, parts[file.name]) for file in scan.files if file.name in parts]
    listed = [each for each in listed if each[0] not in unread]
    return OwnFiles(
        source=source, options=FolderOptions(**record.options),
        train=tuple((file, label) for file, label, part in listed if part != "test"),
        test=tuple((file, label) for file, label, part in listed if part == "test"),
    )  # fmt: skip
