"""Worlds as JSON: `truth.json` of a capture holds the world itself, so that its truth can be traced again."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from scene4d.worlds import types

TYPES = {
    kind.__name__: kind
    for kind in (
        types.World,
        types.WorldObject,
        types.Stage,
        types.Light,
        types.Texture,
        types.Motion,
        types.Drive,
        types.TimeWarp,
        types.Sphere,
        types.Box,
        types.Rect,
        types.Capsule,
    )
}


def to_json(value: Any) -> Any:
    """What json.dumps takes: dataclasses become objects with a "type", tuples lists; floats keep every bit."""
    if is_dataclass(value):
        return {"type": type(value).__name__, **{f.name: to_json(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, tuple):
        return [to_json(v) for v in value]
    return value


def from_json(data: Any) -> Any:
    """The inverse of `to_json`. Raises ValueError for a type or a field that no world has."""
    if isinstance(data, list):
        return tuple(from_json(v) for v in data)
    if not isinstance(data, dict):
        return data
    kind = TYPES.get(data.get("type", ""))
    if kind is None:
        raise ValueError(f"type must be one of {', '.join(TYPES)}, got {data.get('type')!r}")
    values = {name: from_json(v) for name, v in data.items() if name != "type"}
    unknown = set(values) - {f.name for f in fields(kind)}
    if unknown:
        raise ValueError(f"fields of {kind.__name__} must be {[f.name for f in fields(kind)]}, got {sorted(unknown)}")
    return kind(**values)
