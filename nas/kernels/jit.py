"""Compilation of Python to machine code: numba's decorators, LLVM instructions, arrays from addresses.

numba may be missing or broken: everything here can be imported all the same, and `unsuited` gives the reason.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

try:
    import llvmlite.binding as llvm
    import numba
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic
    from numba.np.numpy_support import carray

    _features: Any = llvm.get_host_cpu_features()
    _config: Any = numba.config
    if (_forced := _config.CPU_FEATURES) is not None:  # NUMBA_CPU_FEATURES, by which numba compiles then
        _features = {name[1:]: name.startswith("+") for name in _forced.split(",")}
    FEATURES = {name for name, present in _features.items() if present}
    """The processor's features that are compiled for, by LLVM's names."""
    MISSING = None
    """The reason why numba cannot be imported."""
except (ImportError, OSError) as error:
    FEATURES = set()
    MISSING = str(error)

F = TypeVar("F", bound=Callable[..., Any])
OPTIONS: dict[str, Any] = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},  # not "nnan" and "ninf": a NaN must stay one
    "nogil": True,
    "error_model": "numpy",  # x / 0 is infinite; the test for zero would keep loops from vectorising
}
WITHOUT_WRAPPERS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
ENTRIES: list[Any] = []
"""Every function made by `entry`, for `nas.kernels.cache`."""


def unsuited() -> str | None:
    """Return the reason why the kernels cannot run here; None when they can."""
    if MISSING is not None:
        return f"numba cannot be imported ({MISSING})"
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64") and not {"avx2", "fma"} <= FEATURES:
        return "the processor has no AVX2 and FMA"
    if machine not in ("x86_64", "amd64", "arm64", "aarch64"):
        return f"no kernels for a {machine} processor"
    return None


def compiled(function: F) -> F:
    """Compile a helper: its machine code goes into that of the entry points that call it.

    Without wrappers for calls from Python and C, which nobody makes: they were an eighth of the time to compile.
    """
    if MISSING is not None:
        return function
    return cast(F, numba.njit(**OPTIONS, **WITHOUT_WRAPPERS)(function))


def entry(function: F) -> F:
    """Compile a function that is called from Python; call `compile_all` before it."""
    if MISSING is not None:
        return function
    # Without cache=True, which looks for a folder here and now and raises where it finds none: `cache` turns it on.
    ENTRIES.append(numba.njit(**OPTIONS)(function))
    return cast(F, ENTRIES[-1])


def emitted(body: Callable[[Any, Any], None]) -> Any:
    """Make a function of one record (a NamedTuple of integers, addresses in bytes) whose body writes LLVM instructions.

    The body is given the builder and the record, of LLVM values. One record, since a dozen numbers in a row are easily
    swapped; it is taken apart in registers and costs nothing. The function stays one of its own: copied into each
    caller, the register blocks took 50 s to compile instead of 10.
    """
    if MISSING is not None:
        return body
    name = f"nas_{body.__name__}"

    def call(typing: Any, record: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            fields = [builder.extract_value(values[0], k) for k in range(len(record))]
            arguments = [context.cast(builder, *field, types.int64) for field in zip(fields, record, strict=True)]
            function = builder.module.globals.get(name)
            if function is None:
                kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(arguments))
                function = ir.Function(builder.module, kind, name)
                function.linkage = "linkonce_odr"  # numba links modules that each have it: one of them stays
                function.attributes.add("noinline")
                inner = ir.IRBuilder(function.append_basic_block())
                body(inner, record.instance_class(*function.args))
                inner.ret_void()
            builder.call(function, arguments)
            return context.get_dummy_value()

        return types.void(record), emit

    return intrinsic(call)


def _pointer_to(kind: str) -> Any:
    """Make a compiled function from an address to a pointer that numba can make an array of."""
    if MISSING is not None:
        return None

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        pointer_type: Any = types.CPointer
        return pointer_type(getattr(types, kind))(types.int64), emit

    return pointer


_pointer, _double_pointer, _long_pointer = map(_pointer_to, ("float32", "float64", "int64"))


@compiled
def floats(address: int, size: int) -> Any:
    """Return the float32 array at an address."""
    return carray(_pointer(address), (size,), np.float32)


@compiled
def doubles(address: int, size: int) -> Any:
    """Return the float64 array at an address."""
    return carray(_double_pointer(address), (size,), np.float64)


@compiled
def longs(address: int, size: int) -> Any:
    """Return the int64 array at an address."""
    return carray(_long_pointer(address), (size,), np.int64)
