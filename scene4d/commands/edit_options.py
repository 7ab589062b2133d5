"""Options of `scene4d edit` as parts of operations. Everything here raises ValueError."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from scene4d.edits.clocks import TimeMap, freeze, loop, reverse, speed
from scene4d.edits.placements import CENTER, Key, Placement, Quat, Vec3, turn_about
from scene4d.path_files import load_path, path_json

AXES: dict[str, Vec3] = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
CLOCKS = ("speed", "reverse", "freeze", "loop", "pingpong", "points")


def placement_of(do: Any) -> Placement:
    """Of --by, --turn, --scale and --pivot; without keys where the first three change nothing."""
    pivot = do.pivot if do.pivot == CENTER else three(do.pivot, "pivot")
    if not hasattr(do, "by"):
        return Placement(pivot=pivot)
    key = Key(0.0, tuple(do.by), turn_of(do.turn), do.scale)
    return Placement(() if key == Key() else (key,), pivot)


def turn_of(text: str | None) -> Quat:
    """z,90 or 0,0,1,90."""
    if text is None:
        return (1.0, 0.0, 0.0, 0.0)
    parts = text.split(",")
    if len(parts) == 2 and parts[0].lstrip("-") in AXES:
        sign = -1.0 if parts[0].startswith("-") else 1.0
        axis, degrees = AXES[parts[0].lstrip("-")], number(parts[1], "turn") * sign
    elif len(parts) == 4:
        axis, degrees = three(",".join(parts[:3]), "turn"), number(parts[3], "turn")
    else:
        raise ValueError(f"turn must be AXIS,DEGREES such as z,90, or X,Y,Z,DEGREES, got {text!r:.60}")
    return turn_about(axis, degrees)


def key_of(text: str) -> Key:
    """0.5 by=0,0,1 turn=z,90 scale=2"""
    words = text.split()
    if not words:
        raise ValueError("key must be SECONDS and any of by=, turn= and scale=, got nothing")
    given = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in ("by", "turn", "scale") or name in given:
            raise ValueError(f"key must be SECONDS and any of by=, turn= and scale= once, got {text!r:.60}")
        given[name] = value
    by = three(given["by"], "by") if "by" in given else (0.0, 0.0, 0.0)
    scale = number(given["scale"], "scale") if "scale" in given else 1.0
    return Key(number(words[0], "key"), by, turn_of(given.get("turn")), scale)


def clock_of(do: Any) -> TimeMap:
    """Of the one option of CLOCKS that is given."""
    given = [name for name in CLOCKS if getattr(do, name) is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of {', '.join(f'--{name}' for name in CLOCKS)} must be given, got {len(given)}")
    if do.speed is not None:
        return speed(do.speed, do.about)
    if do.freeze is not None:
        return freeze(do.freeze)
    if do.points is not None:
        pairs = [pair(part, "points") for part in do.points.split(",")]
        times, values = zip(*pairs, strict=True)
        return TimeMap(times, values, do.ease, do.outside)
    first, last = pair(getattr(do, given[0]), given[0])
    if not first < last:
        raise ValueError(f"{given[0]} must be FIRST:LAST with FIRST before LAST, got {first:g}:{last:g}")
    return reverse(first, last) if do.reverse is not None else loop(first, last, do.pingpong is not None)


def fade_points(text: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """0.2:1,0.5:0, or one factor."""
    if ":" not in text:
        return (0.0,), (number(text, "points"),)
    times, factors = zip(*(pair(part, "points") for part in text.split(",")), strict=True)
    return times, factors


def path_file(file: Path) -> str:
    """A camera path file as the JSON text of our own format. Raises InputError."""
    return json.dumps(path_json(load_path(file)), sort_keys=True)


def number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} must have a finite number there, got {text!r:.40}")
    return value


def pair(text: str, name: str) -> tuple[float, float]:
    first, colon, last = text.partition(":")
    if not colon:
        raise ValueError(f"{name} must have two numbers A:B there, got {text!r:.40}")
    return number(first, name), number(last, name)


def three(text: str, name: str) -> Vec3:
    parts = text.split(",")
    if len(parts) != 3:
        raise ValueError(f"{name} must be three numbers X,Y,Z, got {text!r:.40}")
    x, y, z = (number(part, name) for part in parts)
    return x, y, z
