"""The tape: an architecture as stages, a record for each, and the buffers that the records point into.

What costs time beside the multiply-adds is memory: a step of the small networks moves some ten times its 20 MB of
activations, more than the cache holds. So the output of a stage is not stored where the next one is a convolution: it
is "deferred", and the next stage "pulls" its rows from z, forward and again backward, into a ring of as many rows as
its kernel has, which stays in the cache. Their gradients take turns in two buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from nas.kernels.blocks import LANES

if TYPE_CHECKING:
    from nas.architecture import Architecture

CONV, MAX_POOL, GLOBAL_POOL = 0, 1, 2
KINDS = {"conv": CONV, "maxpool": MAX_POOL, "globalpool": GLOBAL_POOL}

_ADDRESSES = (
    "x", "z", "y",  # input; convolution's output; output, after norm, ReLU, pool and residual
    "x_grad", "y_grad",  # the gradient of z overwrites z
    "skip", "skip_grad",  # what a residual adds to the output, and to the gradient of the input; 0: nothing
    "weight", "bias", "gamma", "beta", "weight_grad", "bias_grad", "gamma_grad", "beta_grad",
    "running_mean", "running_var", "batches",  # the norm's buffers in the model
    "coefficients", "moments",  # four float32 and two float64 for each channel: see `norm`
    "packed", "paired",  # the weights as `conv_block` and `winograd_block` read them
    "sums",  # of the weight gradient, a vector for each weight
    "taps",  # the table of a block's taps
    "zeros",  # the bias of what has none
)  # fmt: skip
_NUMBERS = (
    "kind", "c_in", "h_in", "w_in", "c_out", "h", "w", "kernel", "stride", "padding",
    "depthwise", "leads", "separable",  # a filter for each channel; runs with the next stage; with the one before
    "relu_first", "norm", "relu_last", "pool",  # 1 where the stage has it
    "input_grad",  # 0 where nothing before it is trained
    "pulls", "deferred", "x_rows", "y_rows",  # rows stored of input and output: all, or those of a ring
    "batch", "lanes",
)  # fmt: skip
STAGE = np.dtype([(name, np.int64) for name in _ADDRESSES + _NUMBERS] + [("eps", "f8"), ("momentum", "f8")])
"""One stage: a convolution with the norm, ReLU, 2x2 max-pool and residual that follow it; a max-pool or the global pool
on its own."""

Fields = dict[str, int | float]
"""The fields of a stage's record that are known; all others are 0. "residual" is the stage that it skips from."""


def lower(architecture: Architecture, model: nn.Module, gradients: Sequence[Tensor]) -> list[Fields]:
    """Return the fields of each stage that do not depend on the batch."""
    layers = architecture.layers
    # `build` makes modules and parameters in the order of the layers: each is the next of its kind.
    convs = iter([module for module in model.modules() if isinstance(module, nn.Conv2d)])
    norms = iter([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)])
    gradient = iter([tensor.data_ptr() for tensor in gradients])
    stages: list[Fields] = []
    first: dict[int, int] = {}  # the stage that begins with a layer
    for k, layer in enumerate(layers):
        fields = stages[-1] if stages else {}
        activated = fields.get("norm") or fields.get(
            "relu_last"
        )  # without either y is z itself, and has no pass to join
        if layer.op == "maxpool" and activated and not {"pool", "residual"} & fields.keys():
            fields["pool"] = 1
        elif layer.op in KINDS:
            first[k] = len(stages)
            fields = {"kind": KINDS[layer.op]}
            fields["c_in"], fields["h_in"], fields["w_in"] = layer.input_shape
            fields["c_out"], fields["h"], fields["w"] = layer.output_shape
            fields["input_grad"] = int(any(stage["kind"] == CONV for stage in stages))
            stages.append(fields)
        if layer.op == "conv":
            conv = next(convs)
            fields["kernel"], fields["stride"], fields["padding"] = layer.kernel_size, layer.stride, layer.padding
            # Two convolutions in a row are the halves of a separable block.
            fields["separable"] = int(k > 0 and layers[k - 1].op == "conv")
            fields["leads"] = int(layers[k + 1 : k + 2] != () and layers[k + 1].op == "conv")
            fields["depthwise"] = int(bool(fields["leads"]) or layer.groups > 1)
            fields["weight"], fields["weight_grad"] = conv.weight.data_ptr(), next(gradient)
            if conv.bias is not None:
                fields["bias"], fields["bias_grad"] = conv.bias.data_ptr(), next(gradient)
        elif layer.op == "norm":
            _lower_norm(fields, next(norms))
            fields["gamma_grad"], fields["beta_grad"] = next(gradient), next(gradient)
        elif layer.op == "relu":
            fields["relu_first" if layers[k + 1].op == "norm" else "relu_last"] = 1
        elif layer.op == "add":
            fields["residual"] = first[layer.skip]
    if stages[-1]["kind"] == GLOBAL_POOL:
        # The mean of a linear map is the map of the mean: the classifier then multiplies one pixel instead of all.
        pool, head = stages.pop(), stages.pop()
        pool["c_in"] = pool["c_out"] = head["c_in"]
        head["h_in"] = head["w_in"] = head["h"] = head["w"] = 1
        stages += [pool, head]
    for one, other in pairwise(stages):  # the kernels read and write memory by these, and check nothing
        halves = 2 if "pool" in one else 1
        assert (one["c_out"], one["h"] // halves, one["w"] // halves) == (other["c_in"], other["h_in"], other["w_in"])
    return stages


def _lower_norm(fields: Fields, norm: nn.BatchNorm2d) -> None:
    """Add a norm's fields to the stage's, but for its gradients."""
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    fields["norm"], fields["eps"], fields["momentum"] = 1, norm.eps, norm.momentum
    fields["gamma"], fields["beta"] = norm.weight.data_ptr(), norm.bias.data_ptr()
    fields["running_mean"], fields["running_var"] = norm.running_mean.data_ptr(), norm.running_var.data_ptr()
    fields["batches"] = norm.num_batches_tracked.data_ptr()


class Tape:
    """The records of one batch size, and the buffers they point into."""

    def __init__(self, stages: Sequence[Fields], batch: int) -> None:
        self.lanes = -(-batch // LANES) * LANES
        self.records = np.zeros(len(stages), STAGE)
        self._buffers: list[Tensor] = []  # the records have only their addresses
        for name in STAGE.names or ():
            self.records[name] = [fields.get(name, 0) for fields in stages]
        self.records["batch"], self.records["lanes"] = batch, self.lanes
        first = self.records[0]
        self.images = self._allocate(first["c_in"] * first["h_in"] * first["w_in"] * self.lanes)
        self.images = self.images.view(first["c_in"], first["h_in"], first["w_in"], self.lanes)
        self._residuals = [(k, int(fields["residual"])) for k, fields in enumerate(stages) if "residual" in fields]
        self._place_maps()
        self._place_scratch()

    def read(self, images: Tensor) -> None:
        """Make images (C, H, W, N) the tape's input: where they lie, or copied and filled up to whole vectors."""
        if images.shape[3] != self.lanes or not images.is_contiguous() or images.data_ptr() % 64:
            self.images[..., : images.shape[3]] = images
            self.images[..., images.shape[3] :] = 0
            images = self.images
        self.records[0]["x"] = images.data_ptr()
        for k, start in self._residuals:  # one may skip from the images
            self.records[k]["skip"] = self.records[start]["x"]

    def _allocate(self, size: float) -> Tensor:
        """Make room for that many floats."""
        self._buffers.append(aligned_zeros(int(size)))
        return self._buffers[-1]

    def _place_maps(self) -> None:
        """Give every stage its maps: each stage's input is the output of the one before, and so are the gradients."""
        records = self.records
        stored = {0} | {start for _, start in self._residuals}  # stages whose input is read again later
        spanning = {k for k, start in self._residuals if k - start > records[k]["separable"]}
        ring = self._allocate(max(records["c_in"] * records["kernel"] * records["w_in"]) * self.lanes).data_ptr()
        largest = int(max(records["c_in"] * records["h_in"] * records["w_in"]))
        turns = [self._allocate(largest * self.lanes).data_ptr() for _ in range(2)]
        x, x_rows, x_grad = self.images.data_ptr(), int(records[0]["h_in"]), 0
        for k, record in enumerate(records):
            record["x"], record["x_rows"], record["x_grad"], record["pulls"] = x, x_rows, x_grad, x == ring
            size = record["c_out"] * record["h"] * record["w"]
            x_rows = record["h"] // 2 if record["pool"] else record["h"]
            if record["kind"] == CONV:
                self.logits = self._allocate(size * self.lanes)  # the last convolution's, in the end
                record["z"] = x = x_grad = self.logits.data_ptr()
                record["coefficients"] = self._allocate(4 * record["c_out"]).data_ptr()
                record["moments"] = self._allocate(4 * record["c_out"]).data_ptr()  # two float64 each
            if record["kind"] == CONV and not (record["norm"] or record["relu_last"]):
                pass  # the output is z: a depthwise convolution, or the classifier, which is the last
            elif record["kind"] == CONV and k + 1 not in stored and records[k + 1]["kind"] == CONV:
                record["deferred"] = 1
                # One ring for all, as only one stage runs at a time. Two buffers for gradients, as a stage reads that
                # of its output while it writes that of its input; one more where a residual hands it further back.
                x, x_rows = ring, records[k + 1]["kernel"]
                x_grad = self._allocate(size * self.lanes).data_ptr() if k in spanning else turns[0]
                turns.reverse()
            else:
                x = x_grad = self._allocate(size * self.lanes).data_ptr()  # the gradient overwrites the map
            record["y"], record["y_rows"], record["y_grad"] = x, x_rows, x_grad
        for k, start in self._residuals:
            records[k]["skip"], records[start]["skip_grad"] = records[start]["x"], records[k]["y_grad"]

    def _place_scratch(self) -> None:
        """Give every stage room for its weights as the blocks read them, and for the sums of their gradient."""
        records = self.records
        area = int(max(records["kernel"])) ** 2
        widest = int(max(records["c_in"].max(), records["c_out"].max()))
        weights = int(max(records["c_in"] * records["c_out"] * records["kernel"] ** 2))
        records["zeros"] = self._allocate(widest).data_ptr()
        records["bias"] = np.where(records["bias"] == 0, records["zeros"], records["bias"])
        for record in records:
            record["packed"] = self._allocate(weights).data_ptr()
            record["paired"] = self._allocate(weights * 4 / 3).data_ptr()  # four factors for three taps
            record["sums"] = self._allocate(weights * LANES).data_ptr()
        records["taps"] = self._allocate(4 * widest * area).data_ptr()  # two int64 for each


def aligned_zeros(size: int) -> Tensor:
    """Return that many zeros from the start of a cache line on: the blocks load and store whole ones."""
    buffer = torch.zeros(size + 16)
    start = -buffer.data_ptr() % 64 // 4
    return buffer[start : start + size]


def needs_two_values(stages: Sequence[Fields]) -> bool:
    """Return True if some norm of the network sees one value per image, and so none of a spread in a batch of one."""
    return any(bool(fields.get("norm")) and fields["h"] * fields["w"] == 1 for fields in stages)
