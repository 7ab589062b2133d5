"""Edits as plain JSON, strictly: a frozen dataclass is an object of its fields, told apart by `kind` where it has one.

Fields at their default are left out. Reading knows every key: an unknown one, a missing one or a value that the class
refuses is a ValueError. A field that holds other dataclasses names how to read them in its metadata, see `reads`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from scene4d.edits.checks import shown

Item = TypeVar("Item")
MAX_DEPTH = 40  # of expressions within expressions


def reads(read: Callable[[Any, int], Any]) -> dict[str, Any]:
    """Metadata of a dataclass field whose JSON `read(value, depth)` turns into its value."""
    return {"read": read}


def many(read: Callable[[Any, int], Item]) -> Callable[[Any, int], tuple[Item, ...]]:
    """Reads a list, item by item."""

    def read_all(value: Any, depth: int) -> tuple[Item, ...]:
        if not isinstance(value, list):
            raise ValueError(f"a list must be given, got {shown(value)}")
        return tuple(read(item, depth) for item in value)

    return read_all


def optional(read: Callable[[Any, int], Item]) -> Callable[[Any, int], Item | None]:
    return lambda value, depth: None if value is None else read(value, depth)


def to_json(value: Any) -> Any:
    """The JSON of an edit, a selection or a part of one."""
    if is_dataclass(value) and not isinstance(value, type):
        kind = getattr(value, "kind", None)
        data: dict[str, Any] = {} if kind is None else {"kind": kind}
        for f in fields(value):
            item = getattr(value, f.name)
            if f.default is MISSING or item != f.default:
                data[f.name] = to_json(item)
        return data
    if isinstance(value, tuple):
        return [to_json(item) for item in value]
    return value


def read_object(cls: type[Item], data: Any, depth: int, skip: tuple[str, ...] = ()) -> Item:
    """An instance of a dataclass from its JSON. Raises ValueError."""
    if not isinstance(data, dict):
        raise ValueError(f"{cls.__name__} must be a JSON object, got {shown(data)}")
    if depth > MAX_DEPTH:
        raise ValueError(f"an edit must not hold more than {MAX_DEPTH} objects within each other")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    values = {}
    for key, item in data.items():
        if key in skip or (key == "kind" and hasattr(cls, "kind")):
            continue
        if key not in known:
            raise ValueError(f"{_title(cls)} must have no field but {', '.join(known) or 'kind'}, got {shown(key)}")
        read = known[key].metadata.get("read")
        values[key] = _frozen(item) if read is None else read(item, depth + 1)
    missing = [name for name, f in known.items() if f.default is MISSING and name not in values]
    if missing:
        raise ValueError(f"{_title(cls)} must have the field {missing[0]}, got none")
    return cls(**values)


def read_kind(classes: Mapping[str, type[Item]], what: str, data: Any, depth: int, skip: tuple[str, ...] = ()) -> Item:
    """An instance of the class that `kind` names. Raises ValueError."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be a JSON object, got {shown(data)}")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in classes:
        raise ValueError(f"kind of {what} must be one of {', '.join(classes)}, got {shown(kind)}")
    return read_object(classes[kind], data, depth, skip)


def _title(cls: type) -> str:
    return getattr(cls, "kind", None) or cls.__name__


def _frozen(value: Any) -> Any:
    """Lists as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
