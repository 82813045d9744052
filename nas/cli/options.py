"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from nas.budget import Budget, find_board, parse_count, parse_duration, read_budget
from nas.errors import UsageError

BackendName = Literal["auto", "kernels", "torch", "population"]


def parsed(parse: Callable[[str], Any], metavar: str) -> dict[str, Any]:
    """Return the arguments of an option whose text `parse` reads, so that its own message is shown."""

    def read(text: Any) -> Any:
        try:
            return parse(text) if isinstance(text, str) else text
        except UsageError as error:
            raise typer.BadParameter(str(error)) from None

    read.__name__ = metavar
    return {"parser": read, "metavar": metavar}


def bytes_option() -> dict[str, Any]:
    """Return the arguments of an option that takes a number of bytes: 65536, 64k or 64KiB; k is 1,024 of memory."""

    def parse_bytes(text: str) -> int:
        digits = text.strip().lower().removesuffix("ib").removesuffix("b")
        unit = {"k": 1024, "m": 1024**2}.get(digits[-1:], 1)
        number = digits if unit == 1 else digits[:-1]
        if number[-1:].isalpha() or "." in number:
            raise UsageError(f"a number of bytes is a whole number such as 65536, 64k or 64KiB, not '{text}'")
        return parse_count(number, "a number of bytes") * unit

    return parsed(parse_bytes, "BYTES")


def path_option(metavar: str) -> dict[str, Any]:
    """Return the arguments of an option that takes a path to write to; an empty one would be the current folder."""

    def parse_path(text: str) -> Path:
        if not text:
            raise UsageError("the path is empty: name one")
        return Path(text)

    return parsed(parse_path, metavar)


MaxParams = Annotated[
    int | None,
    typer.Option("--max-params", help="Most learnable parameters, such as 8000 or 8k.", **parsed(parse_count, "N")),
]
MaxMacs = Annotated[
    int | None,
    typer.Option("--max-macs", help="Most multiply-accumulates per image.", **parsed(parse_count, "N")),
]
MaxFlash = Annotated[
    int | None,
    typer.Option("--max-flash", help="Most bytes of flash of the int8 C code, such as 16k.", **bytes_option()),
]
MaxRam = Annotated[
    int | None,
    typer.Option("--max-ram", help="Most bytes of RAM of the int8 C code, its input image included.", **bytes_option()),
]
BudgetFile = Annotated[str | None, typer.Option("--budget", help="A track such as 8k, or a .toml file.")]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="mnist, fashion-mnist, kmnist, emnist-digits, cifar10, mnist-5k, synthetic, or own images: the PATH of a "
        "folder with a folder for each class, or of a .npz file; or torchvision:NAME, any set of torchvision.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data set folder (default: NAS_DATA_DIR, else the user cache)."),
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", help="Side in pixels (default: near the images' own)."),
]
Crop = Annotated[bool, typer.Option("--crop", help="Cut the middle square out (default: add bars).")]
Grayscale = Annotated[
    bool | None,
    typer.Option("--grayscale/--color", help="One channel or three (default: grey if all are)."),
]
Background = Annotated[
    Literal["white", "black"] | None,
    typer.Option("--background",
                 help="Behind transparent pixels, and of bars (default: white behind pixels, black bars)."),
]  # fmt: skip
SkipUnreadable = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out files that cannot be read.")]
AllowDuplicates = Annotated[bool, typer.Option("--allow-duplicates", help="Take equal files in two splits.")]
Mirror = Annotated[
    bool | None,
    typer.Option("--mirror/--no-mirror", help="Mirror images at random (default: by data set; own images not).",
                 show_default=False),
]  # fmt: skip
Augment = Annotated[
    str | None,
    typer.Option(
        "--augment", metavar="NAME=N,...",
        help="Other random changes than the data set's: degrees, translate, scale, shear, crop, jitter, cutout, such "
        "as crop=4,cutout=8 (pixels); or none.",
    ),
]  # fmt: skip
ClassWeights = Annotated[
    float | None,
    typer.Option("--class-weights", metavar="0..1",
                 help="Draw images of rare classes more often: 1 all classes alike, 0.5 half-way (default: 0)."),
]  # fmt: skip
Seed = Annotated[int, typer.Option(help="Random seed.", min=0, max=2**31 - 1)]
StudyName = Annotated[str | None, typer.Option("--study", help="Study name (default: the latest).")]
StudyArgument = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", show_default=False, help="Study name, or --study (default: the latest)."),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage", envvar="NAS_STORAGE", show_envvar=False,
        help="Optuna storage: URL, SQLite file or .log journal (default: NAS_STORAGE, else studies/NAME/study.db).",
    ),
]  # fmt: skip
Teacher = Annotated[
    str | None,
    typer.Option("--teacher", help="Distillation teacher: auto (one that suits the images), none or a schedule."),
]
Timeout = Annotated[
    float | None, typer.Option(help="Time limit for everything, such as 90s, 20m or 1h30m.",
                               **parsed(parse_duration, "TIME")),
]  # fmt: skip
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, help="Parallel trainings (default: one per core, 4 on a GPU).")
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Train on a Ray cluster: ray (this machine, or RAY_ADDRESS) or ray://HOST:PORT."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda; auto is cuda where there is one.")]
Backend = Annotated[
    BackendName,
    typer.Option(
        "--backend", metavar="WORD", help="auto, kernels (CPU only), torch, or population (trains all workers as one)."
    ),
]
NoReport = Annotated[bool, typer.Option("--no-report", help="Write no report.html into the study's folder.")]
TensorBoardFolder = Annotated[
    Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write event files for TensorBoard below DIR.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RequireTarget = Annotated[bool, typer.Option("--require-target", help="Exit with 1 where the target is not met.")]
Target = Annotated[float | None, typer.Option(help="Target accuracy, percent (default: the budget's; 99.4 on MNIST).")]

TARGET_MISSED = 1


def make_budget(max_params: int | None, max_macs: int | None, name: str | None, **overrides: Any) -> Budget:
    """Return the caps of the command line over those of a budget file; `board` names one whose memory is the cap."""
    fields = {"max_params": max_params, "max_macs": max_macs, **overrides}
    if (board := fields.pop("board", None)) is not None:
        found = find_board(board)
        for cap, size in (("max_flash", found.flash), ("max_ram", found.ram)):
            fields[cap] = min(size, fields.get(cap) or size)
    if name is not None:
        return read_budget(name, **fields)
    return Budget(**{key: value for key, value in fields.items() if value is not None})


def one_study(argument: str | None, option: str | None) -> str | None:
    """Return the study, or the path, that is named by its place or by --study.

    Raise `UsageError` where they differ, and for a path where nothing is.
    """
    if argument is not None and option not in (None, argument):
        raise UsageError(f"two studies are named, '{argument}' and --study '{option}': give one")
    name = option if argument is None else argument
    if name is None or "/" not in name.replace(os.sep, "/"):
        return name
    from nas.study import study_at

    return study_at(name)


def require_one(**given: bool) -> None:
    """Raise `UsageError` where several options are given that exclude each other, by the names of their parameters."""
    names = [f"--{name.replace('_', '-')}" for name, wanted in given.items() if wanted]
    if len(names) > 1:
        raise UsageError(f"{names[0]} and {names[1]} exclude each other: give one")


def make_machine(
    data_dir: Path | None, device: str, backend: BackendName, workers: int | None, quiet: bool, **given: Any
) -> Any:
    """Return where trainings run; what the user has to be told about the data goes to standard error."""
    with sign_of_life(quiet):
        from nas.library import Machine

    return Machine(
        data_dir=data_dir, device=device, backend=backend, workers=workers, quiet=quiet, notify=notify, **given
    )


def make_images(
    image_size: ImageSize = None, crop: Crop = False, grayscale: Grayscale = None, background: Background = None,
    skip_unreadable: SkipUnreadable = False, allow_duplicates: AllowDuplicates = False,
) -> Any:  # fmt: skip
    """Return how own images are read; its parameters are the options of `own_images`."""
    with sign_of_life(quiet=False):
        from nas.data import FolderOptions

    return FolderOptions(
        image_size=image_size, crop=crop, grayscale=grayscale, background=background, skip_unreadable=skip_unreadable,
        allow_duplicates=allow_duplicates,
    )  # fmt: skip


OwnImages = Callable[[], Any]
"""A command's parameter `images` under `own_images`: called, it returns the `FolderOptions`, which takes seconds."""


def own_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `make_images` in the place of its parameter `images`."""
    options = inspect.signature(make_images, eval_str=True).parameters
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += options.values() if name == "images" else [parameter]

    @functools.wraps(command)
    def call(**given: Any) -> None:
        images = functools.partial(make_images, **{name: given.pop(name) for name in options})
        command(images=images, **given)

    # What typer reads: the signature, and the annotations beside it.
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del call.__wrapped__
    return call


def make_augmentation(mirror: bool | None, text: str | None) -> dict[str, float] | None:
    """Return the recipe's fields that `--mirror` and `--augment` name; None where neither is given."""
    with sign_of_life(quiet=False):
        from nas.train import AUGMENTATION

    fields: dict[str, float] = {}
    if text is not None and text.strip().lower() == "none":
        fields = dict.fromkeys(AUGMENTATION, 0)
    elif text is not None:
        for part in text.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            try:
                fields[name] = float(value) if set(value) & set(".e") else int(value)
            except ValueError:
                raise UsageError(
                    f"--augment takes names with a number, such as crop=4,cutout=8, not {part!r}"
                ) from None
    if mirror is not None:
        fields["mirror"] = 0.5 if mirror else 0.0
    return fields or None


@contextlib.contextmanager
def sign_of_life(quiet: bool) -> Iterator[None]:
    """Show a word on a terminal while torch and all else are imported, which takes seconds.

    Raise `UsageError` where the working directory is gone.
    """
    try:
        Path.cwd()
    except OSError:  # torch's libraries end the process then, with no word of ours
        raise UsageError("the working directory is gone: change to another one") from None
    from nas.report import can_redraw, make_console

    console = make_console()
    shown = not quiet and can_redraw(console)
    if shown:
        console.print("starting ...", end="\r")
    try:
        yield
    finally:
        if shown:
            console.print(" " * len("starting ..."), end="\r")


def notify(text: str) -> None:
    """Show a notice about the data where the user looks, on standard error."""
    from rich.panel import Panel
    from rich.text import Text

    from nas.report import make_console

    console = make_console()
    if text.startswith("warning: "):
        console.print(Text(text), style="yellow", soft_wrap=not console.is_terminal)
    else:
        console.print(Panel(Text(text), style="yellow", width=min(console.width, 100)))


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
