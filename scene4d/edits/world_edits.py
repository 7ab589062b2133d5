"""Edits of synthetic worlds as edits of scenes: what they do to a scene that is exact is exact.

    Move(i, T)            Transform(instance i, T)
    Remove(i)             Remove(instance i)
    Duplicate(i, T, j)    Duplicate(instance i, j, T)
    Retime(i, warp)       Retime(instance i, the same curve)

An Insert makes new surfaces; a scene that holds them would have to be given, so it has no counterpart here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scene4d import worlds
from scene4d.edits.clocks import TimeMap
from scene4d.edits.operations import Duplicate, Operation, Remove, Retime, Transform
from scene4d.edits.placements import placement_of_matrix
from scene4d.edits.selections import Instance
from scene4d.edits.stack import EditStack, stack_of


def stack_of_world(edits: Iterable[worlds.Edit]) -> EditStack:
    """The stack that does to a world's scene what `worlds.edited` does to the world.

    Raises ValueError: one is an Insert, or moves by what is no similarity.
    """
    return stack_of(operation_of_world(edit) for edit in edits)


def operation_of_world(edit: worlds.Edit) -> Operation:
    """Raises ValueError."""
    if isinstance(edit, worlds.Insert):
        raise ValueError("edit must not be an Insert, which has no counterpart without a scene of its objects")
    select = Instance((edit.instance,))
    if isinstance(edit, worlds.Move):
        return Transform(select, placement_of_matrix(edit.transform))
    if isinstance(edit, worlds.Remove):
        return Remove(select)
    if isinstance(edit, worlds.Duplicate):
        return Duplicate(select, edit.new_instance, placement_of_matrix(edit.transform))
    return Retime(select, TimeMap(*_numbers(edit.warp)))


def _numbers(warp: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(map(float, warp.times)), tuple(map(float, warp.values))
