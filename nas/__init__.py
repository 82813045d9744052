"""Neural architecture search for small image networks under a hard parameter budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.study import load_study

__all__ = ["load_study"]


def __getattr__(name: str) -> Any:
    """`load_study`, imported when it is first asked for: `nas --help` must not wait for pandas."""
    if name == "load_study":
        from nas.study import load_study

        return load_study
    raise AttributeError(f"module 'nas' has no attribute '{name}'")
