"""Convolutions trained as several branches and merged into one: wider training of the same network, on validation.

    python tests/benchmarks/reparameterised.py mnist '7vr s7vr M s12vr s8vr s16vr G Cb' --try kpi --try kkk,weight

Every convolution but the classifier becomes the sum of branches, each channel of each with a scale of its own. A
`--try` names the branches by letters, and then what is not as by default:

    k  as the convolution is        i  identity, where as many channels come in as go out
    p  1x1                          a  1x1, then the mean over the kernel's window
    h  one row of the kernel        e  1x1 to twice the channels, then the kernel (not for depthwise ones)
    v  one column of the kernel

    batch   (default) a branch is divided by its standard deviation over the batch: batch norm, but for the mean, which
            is left in where the convolution has no bias that could take it (plain torch, slow)
    moving  likewise, by a moving average of the covariance of what comes in, through which no gradient goes: the merged
            kernel is then known before the images, and the CPU kernels can train it
    weight  its kernel is divided by its norm (CPU kernels)
    none    a learned scale alone (CPU kernels)
    zero    the scales of all branches but the first begin at zero
    lr=F    the learning rate is multiplied by F

The block's own norm stays. Merged, names and count of the weights are the plain network's, and its accuracy is in the
column "merged, final". Blocks with `bn` have no norm of their own: with `k` each is trained with one that is then
folded into the bias. The branches are those of RepVGG (Ding et al., 2021), diverse branch blocks (Ding et al., 2021)
and MobileOne (Vasu et al., 2022), scales without statistics those of OREPA (Hu et al., 2022). With `--splits N` seeds
take turns on as many validation splits, and share teachers as finalists do. One training at a time, on one core; test
images are not read.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from recipes import recipe_of
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.nn import functional as F

from nas.architecture import Architecture
from nas.data import Draws, Normalization, Split, TrainingData, load_training_data, prepare_dataset, with_fold
from nas.model import TrainedNetwork, build
from nas.study import studies_dir
from nas.teachers import TeacherCache
from nas.train import TEACHER, Recipe, Run, choose_backend, evaluate, loop, teacher_recipe, train
from nas.train.backends import BackendNetwork, KernelsNetwork, TorchNetwork
from nas.workers import LocalPool, read_logits

EXPANSION = 2
OBSERVED_STEPS, OBSERVED_IMAGES, OBSERVED_MOMENTUM = 20, 32, 0.3
"""Steps from one look at the covariances to the next, the images of a look, and its weight in the average."""
BRANCHES_SEED = 30_000
"""Plus the training's seed, that of the further branches: the first begins as the plain network's convolution."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How a convolution is trained."""

    branches: str
    norm: str = "batch"
    zero: bool = False
    lr: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Variant:
        branches, *others = text.split(",")
        if not branches or branches[0] not in "ke" or set(branches) - set("kpahvie"):
            raise SystemExit(f"branches are letters of kpahvie, k or e first, not '{branches}'")
        fields: dict[str, Any] = {}
        for part in others:
            if part in ("batch", "moving", "weight", "none"):
                fields["norm"] = part
            elif part == "zero":
                fields["zero"] = True
            elif part.startswith("lr="):
                fields["lr"] = float(part[3:])
            else:
                raise SystemExit(f"'{part}' in '{text}' is none of batch, moving, weight, none, zero and lr=F")
        return cls(branches=branches, **fields)

    @property
    def backend(self) -> str:
        return "torch" if self.norm == "batch" else choose_backend("cpu", "auto")[0]


class Kernel(nn.Module):
    """A branch's kernel, as large as the convolution's: () -> (O, I / groups, k, k)."""

    def __init__(self, kind: str, conv: nn.Conv2d, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs, self.size, _ = conv.weight.shape
        self.kind = kind
        if kind == "i":
            self.register_buffer("identity", nn.init.dirac_(torch.empty_like(conv.weight.detach()), conv.groups))
            return
        wide = EXPANSION * max(outputs, inputs) if kind == "e" else inputs
        if kind == "e":
            self.first = _drawn((wide, inputs, 1, 1), generator)
        sides = (self.size if kind in "kve" else 1, self.size if kind in "khe" else 1)
        self.weight = _drawn((outputs, wide, *sides), generator)

    def forward(self) -> Tensor:
        if self.kind == "i":
            return self.identity
        if self.kind == "e":
            return torch.einsum("omhw,mi->oihw", self.weight, self.first[:, :, 0, 0])
        if self.kind == "a":
            return self.weight.expand(-1, -1, self.size, self.size) / self.size**2
        rows, columns = ((self.size - side) // 2 for side in self.weight.shape[2:])
        return F.pad(self.weight, (columns, columns, rows, rows))


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> nn.Parameter:
    """Weights as torch's modules draw them."""
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) * bound)


def kinds(conv: nn.Conv2d, branches: str) -> str:
    """The branches that a convolution can have and that are not another one once more."""
    outputs, inputs, size, _ = conv.weight.shape
    left_out = "pahv" * (size == 1) + "e" * (conv.groups > 1) + "i" * (outputs != inputs * conv.groups)
    return "".join(kind for kind in branches if kind not in left_out) or "k"


class Branched(nn.Module):
    """A convolution as a sum of branches."""

    def __init__(self, conv: nn.Conv2d, variant: Variant, generator: torch.Generator) -> None:
        super().__init__()
        found = kinds(conv, variant.branches)
        self.how = variant.norm
        self.geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
        self.kernels = nn.ModuleList(Kernel(kind, conv, generator) for kind in found)
        if found[0] == "k":
            self.kernels[0].weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = conv.bias
        outputs = conv.out_channels
        gain = torch.full((outputs, len(found)), 0.0 if variant.zero else 1.0)
        gain[:, 0] = 1.0
        self.gain = nn.Parameter(gain)
        # Not called: the home of the statistics, in which a BN recalibration finds them.
        self.norm = nn.BatchNorm2d(outputs * len(found), affine=False) if self.how == "batch" else None
        if self.how == "moving":
            width = math.prod(conv.weight.shape[1:])
            self.register_buffer("covariance", torch.eye(width).repeat(conv.groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "moving" and self.training:
            self.observe(x)
        if self.norm is None:
            return F.conv2d(x, *self.merged(), **self.geometry)
        kernels, shape = self.stack(), self.gain.shape
        y = F.conv2d(x, kernels.flatten(0, 1), **self.geometry)  # (N, O * branches, H, W)
        mean, variance = self.norm.running_mean, self.norm.running_var
        if self.training:
            count = y.numel() / y.shape[1]
            variance, mean = torch.var_mean(y, (0, 2, 3), correction=0)
            with torch.no_grad():
                self.norm.running_mean.lerp_(mean, self.norm.momentum)
                self.norm.running_var.lerp_(variance * count / (count - 1), self.norm.momentum)
        scale = self.gain * (variance.view(shape) + self.norm.eps).rsqrt()
        y = (y.unflatten(1, shape) * scale[..., None, None]).sum(2)
        return y if self.bias is None else y + (self.bias - (scale * mean.view(shape)).sum(1))[:, None, None]

    def stack(self) -> Tensor:
        """The kernels of all branches: (O, branches, I / groups, k, k)."""
        return torch.stack([kernel() for kernel in self.kernels], 1)

    @torch.no_grad()
    def observe(self, x: Tensor, momentum: float = OBSERVED_MOMENTUM) -> None:
        """Move the covariance of the kernels' windows towards that of the input (N, I, H, W)."""
        patches = F.unfold(x, self.kernels[0].size, padding=self.geometry["padding"], stride=self.geometry["stride"])
        windows = patches.unflatten(1, self.covariance.shape[:2]).permute(1, 2, 0, 3).flatten(2)
        windows = windows - windows.mean(2, keepdim=True)
        self.covariance.lerp_(windows @ windows.mT / windows.shape[2], momentum)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the one convolution, by the running statistics."""
        kernels, bias, scale = self.stack(), self.bias, self.gain
        if self.norm is not None:
            scale = scale * (self.norm.running_var.view_as(scale) + self.norm.eps).rsqrt()
            if bias is not None:
                bias = bias - (scale * self.norm.running_mean.view_as(scale)).sum(1)
        elif self.how == "weight":
            scale = scale / kernels.flatten(2).norm(dim=2)
        elif self.how == "moving":
            rows = kernels.reshape(len(self.covariance), -1, self.covariance.shape[-1])
            variance = (rows @ self.covariance * rows).sum(2)
            scale = scale * (variance.view_as(scale) + 1e-5).rsqrt()
        return (kernels * scale[..., None, None, None]).sum(1), bias

    @torch.no_grad()
    def convolution(self) -> nn.Conv2d:
        """The one convolution."""
        weight, bias = self.merged()
        outputs, inputs, size, _ = weight.shape
        conv = nn.Conv2d(inputs * self.geometry["groups"], outputs, size, bias=bias is not None, **self.geometry)
        conv.weight.copy_(weight)
        if bias is not None and conv.bias is not None:
            conv.bias.copy_(bias)
        return conv


def rebuilt(module: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """The network with each of its parts changed; what is not changed is shared."""
    if not isinstance(module, nn.Sequential):
        return change(module)
    return type(module)(OrderedDict((name, rebuilt(child, change)) for name, child in module.named_children()))


def branched(model: nn.Module, variant: Variant, seed: int) -> nn.Module:
    """The network with branches in place of each convolution but the classifier."""
    generator = torch.Generator().manual_seed(BRANCHES_SEED + seed)
    *convs, _ = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return rebuilt(model, lambda part: Branched(part, variant, generator) if part in convs else part)


def merged(model: nn.Module) -> nn.Module:
    """The plain network."""
    return rebuilt(model, lambda part: part.convolution() if isinstance(part, Branched) else part)


class OnKernels:
    """A branched network on the CPU kernels: they train the merged one, and its gradients lead to the branches'."""

    def __init__(self, architecture: Architecture, model: nn.Module, normalization: Normalization) -> None:
        self.model, self.steps = model, 0
        self.parts = [module for module in model.modules() if isinstance(module, Branched)]
        plain = merged(model)
        self.convs = [module for module in plain.modules() if isinstance(module, nn.Conv2d)][:-1]
        for conv, part in zip(self.convs, self.parts, strict=True):
            conv.bias = part.bias  # as the norms and the classifier it is shared, with its gradient
        self.trained = [each for part in self.parts for each in (part.gain, *part.kernels.parameters())]
        self.observes = any(part.how == "moving" for part in self.parts)
        self.network = KernelsNetwork(architecture, plain, normalization)

    def batch(self, split: Split, index: Tensor, draws: Draws | None) -> Tensor:
        return self.network.batch(split, index, draws)

    def step(self, images: Tensor, labels: Tensor, recipe: Recipe, soft_targets: Tensor | None) -> tuple[Any, Any]:
        if self.steps % OBSERVED_STEPS == 0 and self.observes:
            with torch.no_grad():
                self.model(images[..., :OBSERVED_IMAGES].permute(3, 0, 1, 2))
        self.steps += 1
        weights = self._merge()
        found = self.network.step(images, labels, recipe, soft_targets)
        for parameter in self.trained:
            parameter.grad.zero_()
        torch.autograd.backward(weights, [conv.weight.grad for conv in self.convs])
        return found

    def logits(self, images: Tensor) -> Tensor:
        self._merge()
        return self.network.logits(images)

    def update_bn_stats(self, images: Tensor, momentum: float) -> None:
        self._merge()
        self.network.update_bn_stats(images, momentum)

    def _merge(self) -> list[Tensor]:
        weights = [part.merged()[0] for part in self.parts]
        for conv, weight in zip(self.convs, weights, strict=True):
            conv.weight.data.copy_(weight.detach())
        return weights


def train_branched(
    architecture: Architecture, training: TrainingData, recipe: Recipe, variant: Variant, seed: int,
    logits: Tensor | None,
) -> tuple[Run, nn.Module]:  # fmt: skip
    """The run of the branched network by the package's own loop, and the network with the averaged weights."""

    def built(plan: Architecture, *, seed: int, dropout: float) -> nn.Module:
        return branched(build(plan, seed=seed, dropout=dropout), variant, seed)

    def on(
        plan: Architecture, model: nn.Module, normalization: Normalization, *_: Any
    ) -> tuple[str, BackendNetwork]:  # fmt: skip
        torch_alone = variant.backend == "torch"
        return variant.backend, (
            TorchNetwork(model, normalization) if torch_alone else OnKernels(plan, model, normalization)
        )

    recipe = dataclasses.replace(recipe, peak_lr=recipe.peak_lr * variant.lr)
    assert training.validation is not None
    with mock.patch.multiple(loop, build=built, backend_network=on):
        run = train(
            architecture, training, training.validation, recipe, seed=seed, teacher_logits=logits,
            backend=variant.backend,
        )  # fmt: skip
    model = built(architecture, seed=seed, dropout=recipe.dropout)
    model.load_state_dict(run.state_dict)
    return run, model.eval()


def teacher_logits(recipe: Recipe, training: TrainingData, folds: range) -> dict[int, Tensor]:
    """The logits of the recipe's teachers for each fold, trained where they are not stored."""
    if recipe.teacher is None:
        return {}
    assert training.validation is not None
    with LocalPool(training, training.validation) as pool:
        cache = TeacherCache(studies_dir() / "teachers", training, pool, lambda message: None)
        found = cache.logits(recipe, dict.fromkeys(folds, recipe.epochs), epochs=teacher_recipe(recipe).epochs)
    for fold, each in found.items():
        print(f"split {fold}: teacher of {each.record.num_params:,} parameters, {each.record.last5:.2f}", flush=True)
    return {fold: read_logits(each.path) for fold, each in found.items()}


def interval(differences: list[float]) -> str:
    """Mean paired difference with its 95 % interval by Student's t."""
    text = f"{statistics.fmean(differences):+.3f} (n = {len(differences)}"
    if len(differences) > 1:
        half = stdtrit(len(differences) - 1, 0.975) * statistics.stdev(differences) / math.sqrt(len(differences))
        text += f", 95 % interval ±{half:.3f}"
    return text + ")"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="a name of the catalogue, or the path of own images")
    parser.add_argument("schedule")
    parser.add_argument("--try", dest="variants", action="append", required=True, metavar="BRANCHES[,FIELD...]")
    parser.add_argument("--recipe", default=f"teacher={TEACHER},teacher_epochs=15", metavar="FIELDS")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--splits", type=int, default=1, help="validation splits, on which the seeds take turns")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    variants = {text: Variant.parse(text) for text in options.variants}
    dataset = prepare_dataset(options.dataset, data_dir=options.data_dir)
    training = load_training_data(dataset, data_dir=options.data_dir)
    architecture = Architecture.parse(
        options.schedule, input_shape=dataset.input_shape, num_classes=dataset.num_classes
    )
    recipe = recipe_of(options.recipe, options.epochs)
    print(f"{dataset.title}, {architecture}: {architecture.num_params:,} parameters; {options.recipe}")
    logits_of = teacher_logits(recipe, training, range(options.splits))
    print("\n| branches | trained | backend | seed | split | last-5 | to plain | merged, final | loss | processor s |")
    print("|-|-|-|-|-|-|-|-|-|-|", flush=True)
    differences: dict[str, list[float]] = {text: [] for text in variants}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        fold = seed % options.splits
        logits, part = logits_of.get(fold), with_fold(training, fold)
        assert part.validation is not None
        plain: dict[str, float] = {}
        for text, variant in variants.items():
            backend = variant.backend
            if backend not in plain:
                began = time.process_time()
                run = train(
                    architecture, part, part.validation, recipe, seed=seed, teacher_logits=logits, backend=backend
                )  # fmt: skip
                plain[backend] = run.last(5)
                last = run.epochs[-1]
                print(
                    f"| plain | {architecture.num_params:,} | {backend} | {seed} | {fold} | {run.last(5):.3f} | "
                    f"| {last.accuracy:.2f} | {last.loss:.4f} | {time.process_time() - began:.0f} |",
                    flush=True,
                )
            began = time.process_time()
            run, model = train_branched(architecture, part, recipe, variant, seed, logits)
            network = TrainedNetwork(
                architecture=architecture, state_dict=merged(model).state_dict(), normalization=part.normalization,
                classes=dataset.classes,
            )  # fmt: skip
            final = 100 * evaluate(network, part.validation).correct / len(part.validation)
            differences[text].append(run.last(5) - plain[backend])
            print(
                f"| {text} | {sum(each.numel() for each in model.parameters()):,} | {backend} | {seed} | {fold} "
                f"| {run.last(5):.3f} | {differences[text][-1]:+.3f} | {final:.2f} | {run.epochs[-1].loss:.4f} "
                f"| {time.process_time() - began:.0f} |",
                flush=True,
            )
    print()
    for text, found in differences.items():
        print(f"{text}: {interval(found)} points of last-5 to plain", flush=True)


if __name__ == "__main__":
    main()
