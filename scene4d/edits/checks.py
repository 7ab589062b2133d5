"""Input checks of edits. Every message names the field, the rule and what was got."""

from __future__ import annotations

import math
import sys
from typing import Any

MAX_NUMBER = 1e9  # seconds, scene units, degrees: beyond it float32 scenes lose all that matters
MAX_NAME = 80
MAX_ITEMS = 1 << 22


def check_number(name: str, value: Any, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> None:
    """Raise ValueError unless it is a finite number from `low` to `high`."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if not good or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {shown(value)}")


def check_numbers(
    name: str, value: Any, count: int | None = None, low: float = -MAX_NUMBER, high: float = MAX_NUMBER
) -> None:
    """Raise ValueError unless it is a tuple of numbers from `low` to `high`: `count` of them, None = at least one."""
    good = isinstance(value, tuple) and 1 <= len(value) <= MAX_ITEMS and (count is None or len(value) == count)
    if not good:
        raise ValueError(f"{name} must be {'a list of' if count is None else count} numbers, got {shown(value)}")
    for item in value:
        check_number(name, item, low, high)


def check_whole(name: str, value: Any, low: int = 0, high: int = 2**31 - 1) -> None:
    """Raise ValueError unless it is a whole number from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {shown(value)}")


def check_name(name: str, value: Any) -> None:
    """Raise ValueError unless it is a short printable text."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > MAX_NAME:
        raise ValueError(f"{name} must be a printable text of 1 to {MAX_NAME} letters, got {shown(value)}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, got {shown(value)}")


def check_flag(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise ValueError(f"{name} must be true or false, got {shown(value)}")


def check_hash(name: str, value: Any) -> None:
    """Raise ValueError unless it is a sha256 in hexadecimal digits."""
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{name} must be a sha256 of 64 hexadecimal digits, got {shown(value)}")


def check_increasing(name: str, value: tuple[float, ...]) -> None:
    if any(not a < b for a, b in zip(value, value[1:], strict=False)):
        raise ValueError(f"{name} must increase, got {shown(value)}")


def shown(value: Any) -> str:
    """A value for a message: short, in one line."""
    try:
        text = repr(list(value) if isinstance(value, tuple) else value)
    except (ValueError, RecursionError):  # integers of thousands of digits, lists in themselves
        text = f"a {type(value).__name__}"
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= 60 else text[:57] + "..."


def is_finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
