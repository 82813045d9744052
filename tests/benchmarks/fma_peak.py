"""The peak of one core on fused multiply-adds, measured."""

from __future__ import annotations

import time
from typing import Any


def fma_peak(barrier: Any, seconds: float = 0.2) -> float:
    """GFLOP/s of this core on fused multiply-adds alone: twelve independent chains of whole vectors, in registers.

    Two units of a latency of four cycles need eight chains; twelve fit the sixteen registers of AVX2.
    """
    import numba
    from llvmlite import binding, ir
    from numba.core import cgutils
    from numba.extending import intrinsic

    features = binding.get_host_cpu_features()
    lanes = 16 if features.get("avx512f") else 8 if features.get("avx2") else 4
    chains = 12

    @intrinsic
    def chain(typing: Any, count: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.VectorType(ir.FloatType(), lanes)
            declared = ir.FunctionType(kind, [kind] * 3)
            fma = cgutils.get_or_insert_function(builder.module, declared, f"llvm.fma.v{lanes}f32")
            half, one, *starts = (
                ir.Constant(kind, [value] * lanes) for value in (0.5, 1.0, *map(float, range(chains)))
            )
            slots = [cgutils.alloca_once_value(builder, start) for start in starts]
            with cgutils.for_range(builder, arguments[0]):
                for slot in slots:
                    builder.store(builder.call(fma, [builder.load(slot), half, one]), slot)
            total = builder.load(slots[0])
            for slot in slots[1:]:
                total = builder.fadd(total, builder.load(slot))
            return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

        return numba.float32(numba.int64), emit

    @numba.njit
    def loop(count: int) -> float:
        return chain(count)

    count = 1_000_000
    loop(count)
    barrier.wait()
    began, repeats = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        loop(count)
        repeats += 1
    return 2 * lanes * chains * count * repeats / (time.perf_counter() - began) / 1e9
