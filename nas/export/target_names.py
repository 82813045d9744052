"""The forms that a network is exported in, by name: checked before anything heavy is imported."""

from __future__ import annotations

from nas.errors import UsageError

TARGETS = ("onnx", "torch", "int8", "c", "script")


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the targets of `onnx,int8`, in `TARGETS`' order; `all` is every one. Raise `UsageError` for others."""
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in (*TARGETS, "all")]:
        raise UsageError(f"no export target '{unknown[0]}': choose among {', '.join(TARGETS)}, or all")
    if not names:
        raise UsageError(f"name what to export to: {', '.join(TARGETS)}, or all")
    return TARGETS if "all" in names else tuple(name for name in TARGETS if name in names)
