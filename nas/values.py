"""Values that a caller gives, checked at once against the types of the function or dataclass that takes them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import reprlib
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from nas.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])

_UNIONS = (types.UnionType, typing.Union)
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "True or False", Path: "a path"}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A bound of a type, for `Annotated`: `words` go on after the type's own, such as "of 1 or more"."""

    words: str
    holds: Callable[[Any], bool]


Positive = Annotated[int, Rule("of 1 or more", lambda number: number >= 1)]


def checked(function: Function) -> Function:
    """Have a function raise `UsageError`, before it begins, for an argument that is not of the type it states.

    A text is taken for a path. `**options: Unpack[Options]` are checked by name, too.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        kinds, options = _kinds(function), False
        for name, kind in list(kinds.items()):
            if typing.get_origin(kind) is typing.Unpack:
                del kinds[name]
                kinds, options = kinds | _types(typing.get_args(kind)[0]), True
        if options and (unknown := sorted(kwargs.keys() - kinds.keys())):
            raise UsageError(f"unknown setting '{unknown[0]}': choose of {', '.join(sorted(kinds))}")
        places = dict(zip(signature.parameters, args, strict=False))
        for name, value in (places | kwargs).items():
            if name in kinds:
                (places if name in places else kwargs)[name] = _taken(name, kinds[name], value)
        return function(*places.values(), *args[len(places) :], **kwargs)

    return typing.cast(Function, call)


def require_fields(instance: Any) -> None:
    """Raise `UsageError` for a field of a dataclass's instance that is not of its type; a text becomes a path."""
    for name, kind in _types(type(instance)).items():
        object.__setattr__(instance, name, _taken(name, kind, getattr(instance, name)))  # it may be frozen


def _types(owner: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(owner, include_extras=True)
    return {name: kind for name, kind in hints.items() if typing.get_origin(kind) is not typing.ClassVar}


def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters; that of its result may be known to the type checker alone."""
    annotations = {name: kind for name, kind in function.__annotations__.items() if name != "return"}
    stated = types.SimpleNamespace(__annotations__=annotations)
    return typing.get_type_hints(stated, vars(inspect.getmodule(function)), include_extras=True)


def _taken(name: str, kind: Any, value: Any) -> Any:
    if _admits(kind, value):
        return value
    if isinstance(value, str) and value and Path in (kind, *typing.get_args(kind)):
        return Path(value)
    raise UsageError(f"{name} is {_described(kind)}, not {reprlib.repr(value)}")


def _admits(kind: Any, value: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _admits(arguments[0], value) and all(rule.holds(value) for rule in arguments[1:])
    if origin in _UNIONS:
        return any(_admits(each, value) for each in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin in (tuple, Sequence):  # a text is a sequence too, but not here
        return isinstance(value, list | tuple) and all(_admits(arguments[0], each) for each in value)
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            _admits(arguments[0], key) and _admits(arguments[1], each) for key, each in value.items()
        )
    if origin is Callable:
        return callable(value)
    if kind in (int, float):  # nor is a bool a number
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def _described(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return f"{_described(arguments[0])} {arguments[1].words}"
    if origin in _UNIONS:
        return _either(*(_described(each) for each in arguments if each is not types.NoneType))
    if origin is Literal:
        return _either(*arguments)
    if origin in (tuple, Sequence):
        return f"a list of {_described(arguments[0])}"
    if origin is Mapping:
        return f"a mapping from {_described(arguments[0])} to {_described(arguments[1])}"
    if origin is Callable:
        return "a function"
    return _WORDS.get(kind) or f"{'an' if kind.__name__[0] in 'AEIO' else 'a'} {kind.__name__}"


def _either(*choices: str) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
