"""The training script: every field of a recipe, and SOAP written out, which is the tool's own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import images, network
from torch import nn

from nas.architecture import Architecture
from nas.data import apply_draws
from nas.errors import UsageError
from nas.export import ExportOptions, require_targets
from nas.export import script as module
from nas.export.script import MEASURED, check_script, result_note, script, script_files
from nas.train import Recipe, random_draws
from nas.train.optim import flatten, make_optimizer

COLOUR = Architecture.parse("3x10x9: 4 s6k5/2r M 6k1b C G")
STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0}
EVERYTHING = {"mirror": 0.5, "crop": 2, "jitter": 0.2, "cutout": 3, "class_weights": 0.5}


def names_of(text: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__name__": "train"}
    exec(text, namespace)
    return namespace


def made(soap: bool = False, **fields: Any) -> str:
    return script(network(COLOUR), "cifar10", vars(Recipe(epochs=2, **fields)), soap=soap)


@pytest.mark.parametrize("soap", [False, True])
@pytest.mark.parametrize("fields", [{}, *({name: value} for name, value in EVERYTHING.items()), EVERYTHING], ids=str)
def test_a_script_with_any_field_of_a_recipe_trains(fields, soap, tmp_path):
    text = made(soap, **fields)
    (tmp_path / "train.py").write_text(text)
    pictures, trained = images(COLOUR, 8), network(COLOUR)
    logits = trained.module()(trained.normalization.apply(pictures)).detach()
    check_script(tmp_path / "train.py", trained, pictures, logits)
    for name in EVERYTHING:
        assert (f"{name.upper()} = " in text) == (name in fields)
    assert ("class Soap" in text) == soap
    assert "AdamW" not in text or not soap
    assert not [line for line in text.splitlines() if line.startswith(("@if", "@end")) or len(line) > 120]


def spread_of(change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """What a random change makes of 6,000 equal images: mean and deviation of each pixel."""
    picture = images(COLOUR, 1).expand(6000, -1, -1, -1)
    torch.manual_seed(0)
    found = change(picture)
    return torch.stack([found.mean(0), found.std(0)])


@pytest.mark.parametrize(
    "fields", [{"mirror": 0.5}, {"crop": 2}, {"jitter": 0.3}, {"cutout": 4}, {"degrees": 20.0}, EVERYTHING], ids=str
)
def test_the_changes_of_images_are_those_of_the_tool(fields):
    recipe = Recipe(**{**STILL, **fields})
    names, normalization = names_of(made(**{**STILL, **fields})), network(COLOUR).normalization
    changed = module._changed(recipe)

    def by_the_tool(pictures: torch.Tensor) -> torch.Tensor:
        draws = random_draws(recipe, len(pictures), (10, 9), torch.Generator().manual_seed(1))
        return apply_draws(pictures, draws, normalization)

    def by_the_script(pictures: torch.Tensor) -> torch.Tensor:
        return eval(changed, {**names, "images": pictures, "chosen": slice(None)})

    found, wanted = spread_of(by_the_script), spread_of(by_the_tool)
    torch.testing.assert_close(found, wanted, atol=0.12, rtol=0)  # 6,000 draws of values within some four deviations
    assert wanted[1].max() > 0.2


def test_rare_classes_are_drawn_as_often_as_others():
    """With a power of 1: of the 2 images of one class and 38 of another, each makes half of an epoch."""
    names = names_of(made(class_weights=1.0))
    seen: list[int] = []
    real = names["F"].cross_entropy
    labels = torch.tensor([0] * 2 + [1] * 38)

    class Recording:
        grid_sample, affine_grid = names["F"].grid_sample, names["F"].affine_grid

        @staticmethod
        def cross_entropy(logits, wanted, **rest):
            seen.extend(wanted.tolist())
            return real(logits, wanted, **rest)

    names["F"] = Recording
    names["train"](images(COLOUR, 40), labels, images(COLOUR, 2), labels[:2], epochs=12)
    assert 0.4 < seen.count(0) / len(seen) < 0.6


def test_soap_in_the_script_is_the_tools():
    """The same weights after 70 steps, with two changes of bases among them."""
    recipe = Recipe()
    ours, theirs = network(COLOUR).module().train(), network(COLOUR).module().train()
    flat, gradient, count = flatten(ours)
    optimizer = make_optimizer(ours, flat[:count], gradient[:count], recipe)
    weights = [each for each in theirs.parameters() if each.ndim == 4]
    others = [each for each in theirs.parameters() if each.ndim != 4]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    soap = names_of(made(soap=True))["Soap"](groups, lr=recipe.peak_lr)
    generator = torch.Generator().manual_seed(0)
    for _ in range(70):
        batch = torch.randn(8, *COLOUR.input_shape, generator=generator)
        labels = torch.randint(0, 10, (8,), generator=generator)
        gradient.zero_()
        nn.functional.cross_entropy(ours(batch), labels).backward()
        optimizer.step()
        # The gradients of ours: those of theirs would drift apart by rounding, and eigenvectors with them.
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.grad = one.grad.clone()
        soap.step()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other, one, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--epochs", "0"], "--epochs is 1"), (["--data", "nowhere/at/all"], "by --data")]
)
def test_a_script_says_what_it_lacks(arguments, words, tmp_path):
    (tmp_path / "train.py").write_text(made())
    (tmp_path / "nowhere").write_text("a file")
    ran = subprocess.run([sys.executable, "train.py", *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 2
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_script_states_its_defaults_and_leaves_no_folder_of_a_failed_download(tmp_path):
    (tmp_path / "mine").mkdir()
    download = "datasets.CIFAR10(root, train=train, download=True)"
    failing = "(Path(root) / 'raw' / 'parts').mkdir(parents=True); raise OSError('no network')"
    assert download in made()
    (tmp_path / "train.py").write_text(made().replace(f"data = {download}", failing))
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=False)
    for folder in ("data", "mine/data"):
        ran = run([sys.executable, "train.py", "--data", folder])
        assert "no images in" in ran.stderr
        assert not (tmp_path / folder).exists()
    assert (tmp_path / "mine").is_dir()
    shown = " ".join(run([sys.executable, "train.py", "--help"]).stdout.split())
    assert "seed of the weights and of all random changes (default: 0)" in shown
    assert "times that every training image is seen (default: 2)" in shown
    assert "device of torch: cpu, cuda or mps (default: c" in shown


def test_no_field_of_a_recipe_is_overlooked(monkeypatch):
    fields = {spec.name for spec in dataclasses.fields(Recipe)}
    assert fields == {*module._EXPRESSED, *module._LEFT_OUT}
    monkeypatch.setattr(module, "_EXPRESSED", tuple(name for name in module._EXPRESSED if name != "crop"))
    assert script_files("cifar10", vars(Recipe())) is None
    with pytest.raises(UsageError, match="cannot export to script: a script cannot express the recipe's crop = 2"):
        script_files("cifar10", vars(Recipe(crop=2)))
    with pytest.raises(UsageError, match="crop = 2"):
        made(crop=2)


def test_a_result_is_stated_of_the_training_that_was_measured_alone():
    record, teacher = network(Architecture.parse(MEASURED)), "12v G C"
    assert record.architecture.num_params == 7630
    own = (record, "mnist", vars(Recipe(teacher=teacher)))
    for text in (result_note(*own), script(*own)):
        assert "99.569 ± 0.051" in text.replace("\n", " ")
    others = (
        (*own[:2], vars(Recipe(epochs=14))), (*own[:2], vars(Recipe(dropout=0.1))), (record, "kmnist", own[2]),
        (network(Architecture.parse("18r s10r M s43vr s36vr s49vr s31vr C G")), *own[1:]),
    )  # fmt: skip
    for given, soap in [(own, True), *((other, False) for other in others)]:
        for text in (result_note(*given, soap=soap), script(*given, soap=soap)):
            assert "99.5" not in text
            assert "not measured; run it with --seed 0, 1 and 2" in text.replace("\n", " ")


def test_the_record_that_was_measured_has_the_note():
    record = Path(__file__).parents[2] / "studies" / "records" / "8000"
    recipe = json.loads((record / "result.json").read_text())["recipe"]
    assert (record / "architecture.txt").read_text().strip() == MEASURED
    assert "99.569" in result_note(network(Architecture.parse(MEASURED)), "mnist", recipe)


def test_soap_belongs_to_a_script():
    with pytest.raises(UsageError, match="--soap is the training script's optimizer: export to script"):
        require_targets(["onnx"], "mnist", vars(Recipe()), Path("out"), ExportOptions(soap=True))
