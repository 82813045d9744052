"""The memory that a network takes on a device, counted in closed form from its architecture alone.

The operations of a deployed network by their shapes, the order in which its C code computes them, and the bytes of
flash and RAM that this takes. A search discards by these counts, and the exports write code by the same plan.
"""

from nas.footprint.device import (
    CODE_BYTES,
    Deployment,
    DeviceLimit,
    Footprint,
    counts,
    folded_params,
    footprint,
    plan_footprint,
)
from nas.footprint.operations import (
    LARGEST_BIAS,
    LARGEST_SUM,
    LARGEST_WEIGHT,
    Classifier,
    Convolution,
    GlobalAveragePool,
    Kind,
    MaxPool,
    Operation,
    ResidualAdd,
    deployed_operations,
    with_summing_classifier,
)
from nas.footprint.plan import Plan, Stage, make_plan, too_large

__all__ = [
    "CODE_BYTES",
    "LARGEST_BIAS",
    "LARGEST_SUM",
    "LARGEST_WEIGHT",
    "Classifier",
    "Convolution",
    "Deployment",
    "DeviceLimit",
    "Footprint",
    "GlobalAveragePool",
    "Kind",
    "MaxPool",
    "Operation",
    "Plan",
    "ResidualAdd",
    "Stage",
    "counts",
    "deployed_operations",
    "folded_params",
    "footprint",
    "make_plan",
    "plan_footprint",
    "too_large",
    "with_summing_classifier",
]
