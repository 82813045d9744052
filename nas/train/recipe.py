"""The training recipe: every number that decides how a network is trained, with its bounds, and the maps it draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from nas.budget import MAX_EPOCHS
from nas.data import Dataset, Draws, Split, random_affine, random_colours, random_holes
from nas.errors import UsageError

TEACHER = "12v 20v M 40v 40v M 64 64 G C"
"""The default teacher: 84,892 parameters on MNIST, for students of a tenth of that."""

AFFINE = ("degrees", "translate", "scale", "shear")
"""The recipe's ranges of the affine maps."""

AUGMENTATION = (*AFFINE, "mirror", "crop", "jitter", "cutout")
"""The recipe's fields that change the images."""

Number = TypeVar("Number", int, float)


def _bounded(default: Number, low: float, high: float) -> Number:
    """Return a field with this default, whose values lie between `low` and `high`, whole if the default is."""
    return field(default=default, metadata={"bounds": (low, high)})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained: SOAP on a one-cycle schedule, random affine maps, and an average of the weights.

    The bounds beside each default are inclusive. Raises `UsageError` for a value outside of them.
    """

    epochs: int = _bounded(15, 1, MAX_EPOCHS)
    """Passes over the training images."""

    batch_size: int = _bounded(64, 2, 65_536)
    """Images per step. It and `peak_lr` belong together."""

    peak_lr: float = _bounded(0.02, 1e-8, 10)
    """The highest learning rate, for a network of 8,000 parameters or more."""

    lr_exponent: float = _bounded(0.5, 0, 1)
    """Smaller networks take `peak_lr` times (8,000 / parameters) to this power: narrow layers learn too slowly
    otherwise. 0: all take the same."""

    warmup_fraction: float = _bounded(0.2, 0, 0.9)
    """Share of all steps in which the learning rate rises to its peak; it falls in the rest."""

    weight_decay: float = _bounded(1e-4, 0, 1)
    """Decay per step, times the learning rate, of the convolution weights. Biases and norm affines have none, as they
    have no scale to hold down."""

    label_smoothing: float = _bounded(0.0, 0, 0.9)
    """Share of each label's target probability that is spread over all classes."""

    ema_horizon: float = _bounded(0.07, 0, 1)
    """Horizon of the exponential moving average of the weights, as a share of all steps, so that it scales with short
    runs: 0.07 is a decay of 0.999 over 15 epochs of 60,000 images in batches of 64. 0: no average."""

    bn_recalibration_images: int = _bounded(5120, 2, 10**9)
    """Training images, without augmentation, that the norms' statistics are taken of before each evaluation: those
    from training are of augmented images, and the images to evaluate are not augmented."""

    degrees: float = _bounded(8.0, 0, 180)
    """Largest rotation of an image, either way."""

    translate: float = _bounded(1.4, 0, 1000)
    """Largest shift of an image along each axis, in pixels."""

    scale: float = _bounded(0.07, 0, 0.9)
    """Largest change of an image's size, as a fraction."""

    shear: float = _bounded(0.07, 0, 0.9)
    """Largest shear of an image along each axis, as a fraction."""

    mirror: float = _bounded(0.0, 0, 1)
    """Probability with which an image is mirrored left to right."""

    crop: int = _bounded(0, 0, 1000)
    """Largest shift of an image along each axis in whole pixels: a crop of the image padded by so many black ones."""

    jitter: float = _bounded(0.0, 0, 0.9)
    """Largest change of an image's contrast and saturation, as a fraction, and of its brightness, in standard
    deviations."""

    cutout: int = _bounded(0, 0, 1000)
    """Side of a square in pixels that is cut out of each image, its centre anywhere."""

    class_weights: float = _bounded(0.0, 0, 1)
    """Power of a class's rarity by which its images are drawn more often: 1 draws all classes alike, 0 each image once
    per epoch."""

    dropout: float = _bounded(0.0, 0, 0.9)
    """Probability with which each input of the classifier is dropped in a step, on plain torch alone (Srivastava et
    al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014)."""

    teacher: str | None = None
    """Schedule of a larger network to distill from, which is trained beforehand on the same images; None for none
    (Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015)."""

    teacher_epochs: int = _bounded(0, 0, 10_000)
    """Epochs of a full run's teacher; 0: as many as its students have. A search's teachers are its own matter."""

    teacher_augmentation: float = _bounded(1.5, 0.1, 10)
    """How many times as strong the augmentation is that the teacher is trained with."""

    distill_weight: float = _bounded(0.9, 0, 1)
    """Weight of the teacher's probabilities in the loss; the labels have the rest."""

    temperature: float = _bounded(2.0, 0.1, 100)
    """Temperature at which the probabilities of teacher and student are compared."""

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            if "bounds" in spec.metadata:
                _check(spec, getattr(self, spec.name))
        if self.teacher is not None and not isinstance(self.teacher, str):
            raise UsageError(f"the recipe's teacher is a schedule, not {self.teacher!r}")

    @property
    def augments(self) -> bool:
        """True where the recipe changes the images at all."""
        return any(getattr(self, name) for name in AUGMENTATION)

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that tell this recipe from another: those of `LATER` only where they are not the default.

        It names studies, folders and caches, which a field that is added must not make strangers of.
        """
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items() if name not in LATER or value != LATER[name]}

    @classmethod
    def for_dataset(cls, dataset: Dataset, augmentation: Mapping[str, float] | None = None, **fields: Any) -> Recipe:
        """Return the default recipe of a data set; `augmentation` and `fields` replace its values by name.

        `augmentation` has names of `AUGMENTATION` alone. Raise `UsageError` for another name, a value that breaks a
        rule, and for mirroring where a mirrored image is none of its class.
        """
        given = dict(augmentation or {})
        if unknown := sorted(given.keys() - set(AUGMENTATION)):
            raise UsageError(f"unknown augmentation '{unknown[0]}': choose of {', '.join(AUGMENTATION)}")
        recipe = cls(**{**dataset.augmentation, **given, **fields})
        if recipe.mirror and not dataset.mirrors:
            raise UsageError(f"a mirrored image of {dataset.title} is none of its class: leave mirroring away")
        return recipe

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a saved dictionary. Raises `UsageError` on an unknown key."""
        known = [spec.name for spec in dataclasses.fields(cls)]
        if unknown := sorted(set(fields) - set(known)):
            raise UsageError(f"unknown key '{unknown[0]}' in a recipe: it has {', '.join(known)}")
        return cls(**fields)


def _check(spec: dataclasses.Field[Any], value: object) -> None:
    low, high = spec.metadata["bounds"]
    whole = type(spec.default) is int
    # A bool is an int, and every comparison with NaN is false.
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"the recipe's {spec.name} is {kind} between {low} and {high}, not {value!r}")


LATER = {
    spec.name: spec.default
    for spec in dataclasses.fields(Recipe)
    if spec.name in (*AUGMENTATION[len(AFFINE) :], "class_weights", "teacher_epochs", "dropout")
}
"""The defaults of the fields that recipes did not have from the first."""


def draw_order(split: Split, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Draw the order (N,) of an epoch's images: each once, or with class weights by chance, of rare classes more."""
    device = split.labels.device
    if not recipe.class_weights:
        return torch.randperm(len(split), generator=generator, device=device)
    counts = torch.bincount(split.labels.cpu()).double().to(device)
    weights = counts[split.labels].pow(-recipe.class_weights)
    return torch.multinomial(weights, len(split), replacement=True, generator=generator)


def random_draws(recipe: Recipe, count: int, image_size: tuple[int, int], generator: torch.Generator) -> Draws:
    """Draw the changes of `count` images (H, W) for an epoch, on the generator's device."""
    maps = random_affine(
        count, degrees=recipe.degrees, translate_px=recipe.translate, scale=recipe.scale, shear=recipe.shear,
        image_size=image_size, mirror=recipe.mirror, crop=recipe.crop, generator=generator,
    )  # fmt: skip
    colours = random_colours(count, jitter=recipe.jitter, generator=generator) if recipe.jitter else None
    holes = None
    if recipe.cutout:
        holes = random_holes(count, side=recipe.cutout, image_size=image_size, generator=generator)
    return Draws(maps, colours, holes)


def augmentation_text(recipe: Recipe) -> str:
    """Return the recipe's augmentation in words, such as `degrees 8, mirror 0.5`; `none` where there is none."""
    values = {name: getattr(recipe, name) for name in AUGMENTATION}
    return ", ".join(f"{name} {value:g}" for name, value in values.items() if value) or "none"
