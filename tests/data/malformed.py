"""Folders that are not as they should be, and the line that each gets. `python malformed.py` prints the table."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glyphs import glyph, write_glyphs, write_splits
from PIL import Image


@dataclass(frozen=True)
class Case:
    title: str
    make: Callable[[Path], object]
    refused: str | None = None
    """A part of the line of the error; None where a search takes the folder."""
    told: str | None = None
    """A part of what a check prints."""


def _write(root: Path, name: str, content: bytes = b"") -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def _cut(root: Path) -> None:
    path = root / "A" / "000.png"
    path.write_bytes(path.read_bytes()[:-60])


def _pixel(root: Path) -> None:
    Image.new("L", (1, 1), 200).save(root / "A" / "dot.png")


def _copy(root: Path, source: str, *targets: str) -> None:
    for target in targets:
        _write(root, target, (root / source).read_bytes())


def _link(root: Path, name: str, target: str) -> None:
    (root / name).symlink_to(target)


def _one_class(root: Path) -> None:
    write_glyphs(root, 3, letters="A")


def _loose(root: Path) -> None:
    for number in range(3):
        glyph("A", random.Random(number)).save(root / f"{number}.png")


def _mode(mode: str, suffix: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        rng = random.Random(5)
        for number in range(3):
            image = glyph("A", rng, "L" if mode == "I;16" else mode)
            image = image.convert("I").point(lambda value: value * 257).convert("I;16") if mode == "I;16" else image
            image.save(root / "A" / f"other {number}.{suffix}")

    return make


def _in_splits(change: Callable[[Path], object], **counts: int) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        write_splits(root, **(counts or {"train": 4, "test": 2}))
        change(root)

    return make


def _without(root: Path, folder: str) -> None:
    for path in (root / folder).iterdir():
        path.unlink()
    (root / folder).rmdir()


GOOD = "name "
_PLAIN = [
    Case("hidden files and folders", lambda root: [_write(root, name, b"x") for name in (
        ".DS_Store", "A/.DS_Store", "A/._000.png", ".git/config", "A/.thumbs/1.png")], told="5 hidden"),
    Case("what Windows and macOS leave", lambda root: [_write(root, name, b"x") for name in (
        "A/Thumbs.db", "B/desktop.ini", "__MACOSX/A/000.png")], told="1 Thumbs.db"),
    Case("files of other kinds", lambda root: [_write(root, name, b"x") for name in (
        "README.md", "A/labels.csv", "A/notes.txt")], told="1 *.csv, 1 *.txt"),
    Case("nested folders", lambda root: write_glyphs(root / "A", 2, letters=["left", "left/below"], seed=9),
         told="4 in folders below their class"),
    Case("two files of one name", lambda root: _copy(root, "A/000.png", "A/000.PNG"), told="equal files: 1"),
    Case("names with spaces and other scripts", lambda root: write_glyphs(root, 3, letters=["été 雪", "кошка"], seed=8),
         told="été 雪"),
    Case("a broken link", lambda root: _link(root, "A/gone.png", "nowhere.png"),
         "1 file cannot be read (A/gone.png: broken link); repair or remove, or --skip-unreadable"),
    Case("a link to a folder above", lambda root: _link(root, "A/again", "../A"), told="1 link to a folder above"),
    Case("an empty file", lambda root: _write(root, "A/none.png"), "1 file cannot be read (A/none.png: empty)"),
    Case("a text named as an image", lambda root: _write(root, "A/text.png", b"no image at all"),
         "A/text.png: no image that Pillow reads"),
    Case("a file cut short", _cut, "A/000.png: "),
    Case("images of 1 pixel", _pixel, told="images with a side under 4 pixels: 1"),
    Case("16-bit images", _mode("I;16", "png"), told="3 I;16"),
    Case("CMYK images", _mode("CMYK", "jpg"), told="3 CMYK"),
    Case("an empty class folder", lambda root: (root / "Z").mkdir(),
         "the folder Z has no image; put images there, or remove it"),
    Case("a class of one image", lambda root: write_glyphs(root, 1, letters="Z", seed=7),
         "the class 'Z' has 1 image to train with; add some, or remove the class"),
    Case("images beside the class folders", _loose, told="3 that lie outside class folders"),
    Case("one image in two classes", lambda root: _copy(root, "A/000.png", "B/a.png"),
         told="warning: 1 image in two classes"),
    Case("class names that differ in case", lambda root: write_glyphs(root, 3, letters="a", seed=6),
         told="class names alike: 1"),
]  # fmt: skip
_EMPTY = [
    Case("one class", _one_class, "has one class, 'A': give the folder above it, or add a folder for another class"),
    Case("images and no class folder", _loose, "has 3 images that lie in no class folder: make a folder for each"),
    Case("nothing", lambda root: None, "has no image in any folder: make a folder for each class"),
    Case("no file that can be read", lambda root: [_write(root, name) for name in ("A/1.png", "B/1.png")],
         "no file can be read (A/1.png: empty)"),
]  # fmt: skip
_SPLITS = [
    Case("a class missing from test", _in_splits(lambda root: _without(root, "test/C")),
         told="warning: no test image of the class 'C'"),
    Case("a class missing from train", _in_splits(lambda root: _without(root, "train/C")),
         "the class 'C' has no image to train with; add some, or remove the class"),
    Case("a file in train and in test", _in_splits(lambda root: _copy(root, "train/A/000.png", "test/A/x.png")),
         "1 file in two splits (test/A/x.png = train/A/000.png), which makes scores too high; remove, or "
         "--allow-duplicates"),
    Case("train and training", _in_splits(lambda root: None, train=3, training=3, test=2),
         "has two folders for train, train and training: rename or merge one of them"),
    Case("test without train", _in_splits(lambda root: None, test=3),
         "has a folder test and none for train: rename it, or add train/CLASS/ folders"),
    Case("a folder beside the splits", _in_splits(lambda root: _write(root, "docs/about/page.html", b"x")),
         told="1 folder beside the splits"),
    Case("an empty class in every split", _in_splits(lambda root: (root / "train" / "Z").mkdir()),
         "the folder train/Z has no image"),
]  # fmt: skip


def make(case: Case, root: Path) -> Path:
    """Make the folder of a case: on top of three classes of four images each, where it does not make all itself."""
    root.mkdir(parents=True, exist_ok=True)
    if case in _PLAIN:
        write_glyphs(root, 4, letters="ABC")
    case.make(root)
    return root


CASES = [*_PLAIN, *_EMPTY, *_SPLITS]


def table() -> str:
    """Return a Markdown table of all cases: what a search says, and what a check tells where a search says nothing."""
    from nas.data import check_images, prepare_dataset
    from nas.errors import DataError
    from nas.report import make_console, print_check

    lines = ["| folder | a search | line |", "|-|-|-|"]
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            root = make(case, Path(folder).resolve() / "images")
            try:
                prepare_dataset(str(root), data_dir=None)
                console = make_console(stdout=True)
                with console.capture() as capture:
                    print_check(console, check_images(root))
                found = [line.strip() for line in capture.get().splitlines() if (case.told or "?") in line]
                row = ("runs", found[0] if found else "")
            except DataError as error:
                row = ("is refused", str(error))
            shown = row[1].replace(str(root), "DIR").replace("|", "/")
        lines.append(f"| {case.title} | {row[0]} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
