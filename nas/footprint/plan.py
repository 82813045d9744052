"""The order in which the C code computes a network, and the memory that it takes.

A stage reads one map and writes one. It computes a pixel at a time: the first convolution's outputs there, through the
1x1 convolutions and the residual that follow, into the pixel (or the largest of four, or a sum over all). So a map that
stands between, of the depthwise half of a separable block for instance, takes a pixel's memory. A residual reads its
stage's input, and needs no memory either; that of an inverted bottleneck, whose expanded map has to be stored, reads
the input of the stage before, and its output takes the place of that, pixel by pixel.

Maps are stored pixel by pixel (H, W, C). A stage's input lies at one end of the arena and its output at the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas.architecture import Shape
from nas.footprint.operations import Classifier, Convolution, GlobalAveragePool, MaxPool, Operation, ResidualAdd

_LARGEST_FIELD = 65_535


@dataclass(kw_only=True, eq=False)
class Stage:
    """Operations done together for each pixel of one map."""

    input_shape: Shape
    map_shape: Shape
    """(C, H, W) of the pixels that it computes, after pooling and before summing."""
    convolutions: tuple[Convolution, ...] = ()
    """The first reads the input map, the others a pixel."""
    add: ResidualAdd | None = None
    add_after: int = 0
    """The number of convolutions before the residual is added; 0 where there is none."""
    spans: bool = False
    """The residual reads the input of the stage before."""
    pooled: bool = False
    summed: bool = False
    """The output is the sum over all pixels."""
    average: GlobalAveragePool | None = None
    """The operation that makes a map of 1x1 of the sums; None where the classifier reads them."""
    input_at: int = 0
    """The place in the arena where the input begins, in values; the first stage reads the image, elsewhere."""
    output_at: int = 0
    skip_at: int = 0
    """The place of the map that the residual reads; of the input where there is none."""

    @property
    def output_size(self) -> int:
        """Values that it writes into the arena."""
        channels, height, width = self.map_shape
        if self.summed:
            return 0 if self.average is None else channels
        return channels * height * width


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Stages in order, then the classifier; sizes in values."""

    stages: tuple[Stage, ...]
    classifier: Classifier
    arena: int
    """Values in the arena: of the stages, the largest sum of input and output, the image left out."""
    pixel: int
    """Values in the widest pixel between the operations of a stage; 0 where no stage needs one."""
    pixels: int
    """Such pixels: two by turns, a third where a stage both pools and sums."""
    sums: int
    """Sums over a map, at most."""

    @property
    def spans(self) -> bool:
        """True where some residual reads the input of the stage before its own."""
        return any(stage.spans for stage in self.stages)

    @property
    def convolutions(self) -> tuple[Convolution, ...]:
        return tuple(convolution for stage in self.stages for convolution in stage.convolutions)

    def ram(self, value_bytes: int) -> int:
        """Return the bytes of memory for values of that size, without the caller's image and logits, and the stack."""
        return value_bytes * (self.arena + self.pixels * self.pixel) + 4 * self.sums


def make_plan(operations: Sequence[Operation], *, floats: bool) -> Plan:
    """Return the stages of a folded network's operations (`floats`) or of an integer network's."""
    classifier = operations[-1]
    assert isinstance(classifier, Classifier)
    stages = _stages(operations[:-1])
    if floats and stages and stages[-1].average is not None:
        stages[-1].average = None  # the classifier, its weights divided by the number of pixels, reads the sums
    else:
        _sum(stages, classifier.input_shape)
    return Plan(
        stages=tuple(stages),
        classifier=classifier,
        arena=_place(stages),
        pixel=max(_pixel(stage) for stage in stages),
        pixels=3 if any(stage.pooled and stage.summed for stage in stages) else 2,
        sums=max(stage.map_shape[0] for stage in stages if stage.summed),
    )


def _stages(operations: Sequence[Operation]) -> list[Stage]:
    skips = {operation.skip for operation in operations if isinstance(operation, ResidualAdd)}
    stages: list[Stage] = []
    first = 0  # the operation that begins the last stage
    for index, operation in enumerate(operations):
        fresh = index in skips or not stages or stages[-1].pooled or stages[-1].summed or stages[-1].spans
        match operation:
            case Convolution():
                pointwise = operation.kernel_size == operation.stride == 1
                if fresh or not pointwise:
                    stages.append(_empty(operation.input_shape))
                    first = index
                stages[-1].convolutions += (operation,)
            case MaxPool():
                if fresh:
                    stages.append(_empty(operation.input_shape))
                    first = index
                stages[-1].pooled = True
            case ResidualAdd():
                assert stages[-1].add is None, "a residual begins a stage"
                stages[-1].spans = operation.skip < first
                assert not stages[-1].spans or stages[-2].input_shape == operation.output_shape, "of two stages"
                stages[-1].add, stages[-1].add_after = operation, len(stages[-1].convolutions)
            case GlobalAveragePool():
                _sum(stages, operation.input_shape)
                stages[-1].average = operation
                continue
            case _:
                raise AssertionError("the classifier is the last operation")
        stages[-1].map_shape = operation.output_shape
    return stages


def _sum(stages: list[Stage], shape: Shape) -> None:
    """Let the last stage sum over its pixels; or a new one, where it has summed already or there is none."""
    if not stages or stages[-1].summed:
        stages.append(_empty(shape))
    stages[-1].summed = True


def _empty(shape: Shape) -> Stage:
    return Stage(input_shape=shape, map_shape=shape)


def _place(stages: Sequence[Stage]) -> int:
    """Set where inputs and outputs lie; return the size of the arena."""
    sizes = [stage.output_size for stage in stages]
    arena = max(write + read for write, read in zip(sizes, [0, *sizes[:-1]], strict=True))
    for index, (stage, size) in enumerate(zip(stages, sizes, strict=True)):
        stage.output_at = 0 if index % 2 == 0 else arena - size
        if index:
            stage.input_at = stages[index - 1].output_at
        stage.skip_at = stages[index - 1].input_at if stage.spans else stage.input_at
        # Each value of the skip is read right before the output's is written over it.
        assert not stage.spans or stage.summed or (index > 1 and stage.output_at == stage.skip_at)
    return arena


def _pixel(stage: Stage) -> int:
    """Channels of the widest pixel that is not written into the output map at once."""
    widths = [convolution.output_shape[0] for convolution in stage.convolutions] or [stage.input_shape[0]]
    return max(widths if stage.pooled or stage.summed or stage.spans else widths[:-1], default=0)


def too_large(plan: Plan) -> str:
    """Return what of the network does not fit the 16-bit fields of the code's tables, or an empty text."""
    sides = [side for stage in plan.stages for side in (*stage.input_shape, *stage.map_shape)]
    sides += [channels for convolution in plan.convolutions for channels in convolution.output_shape[:1]]
    largest = max(sides)
    if largest > _LARGEST_FIELD:
        return f"C code holds maps of up to {_LARGEST_FIELD:,} channels, not {largest:,}"
    if max(len(stage.convolutions) for stage in plan.stages) > 255:
        return "C code holds up to 255 convolutions of 1x1 in a row"
    return ""
