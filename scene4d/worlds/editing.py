"""Edits of worlds: an edit is data, an edited world is a World again, and so its truth is traced like any other.

A camera edit needs nothing here: look at the world with another camera. Edits act on whole instances.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from scene4d.worlds.types import Matrix4, TimeWarp, World, WorldObject


@dataclass(frozen=True)
class Move:
    """Applies a world transform (rigid or similarity) to an instance, after its own motion, at all times."""

    instance: int
    transform: Matrix4


@dataclass(frozen=True)
class Remove:
    instance: int


@dataclass(frozen=True)
class Insert:
    """Adds objects; their names and instance must be new. Parents are named among themselves."""

    objects: tuple[WorldObject, ...]


@dataclass(frozen=True)
class Duplicate:
    """Copies an instance and moves the copy. The copy's objects are named `NAME.copyID` and know their origin."""

    instance: int
    transform: Matrix4
    new_instance: int


@dataclass(frozen=True)
class Retime:
    """Moves an instance by its own clock: at scene time t it is where it was at warp(t)."""

    instance: int
    warp: TimeWarp


Edit = Move | Remove | Insert | Duplicate | Retime


def translation(x: float, y: float, z: float) -> Matrix4:
    """The transform of a Move or Duplicate that only shifts, in metres."""
    return ((1.0, 0.0, 0.0, x), (0.0, 1.0, 0.0, y), (0.0, 0.0, 1.0, z), (0.0, 0.0, 0.0, 1.0))


def edited(world: World, edits: Iterable[Edit]) -> World:
    """The world after all edits, applied in order.

    Raises ValueError for an instance that is not there (0, the background, cannot be edited), and for inserted names or
    instances that already are.
    """
    for edit in edits:
        world = replace(world, objects=_EDITORS[type(edit)](world, edit))
    return world


def _members(world: World, instance: int) -> tuple[WorldObject, ...]:
    if instance not in world.instances:
        raise ValueError(f"instance must be one of {world.instances} of world {world.name!r}, got {instance}")
    return tuple(o for o in world.objects if o.instance == instance)


def _placed(obj: WorldObject, transform: Matrix4, members: tuple[WorldObject, ...]) -> WorldObject:
    """Only roots of the instance are placed: the others follow their parents."""
    if obj.parent in {m.name for m in members}:
        return obj
    moved = np.asarray(transform, dtype=np.float64) @ np.asarray(obj.placement)
    return replace(obj, placement=tuple(tuple(row) for row in moved.tolist()))


def _move(world: World, edit: Move) -> tuple[WorldObject, ...]:
    members = _members(world, edit.instance)
    return tuple(_placed(o, edit.transform, members) if o in members else o for o in world.objects)


def _remove(world: World, edit: Remove) -> tuple[WorldObject, ...]:
    members = _members(world, edit.instance)
    return tuple(o for o in world.objects if o not in members)


def _new_instance(world: World, instance: int) -> int:
    if instance < 1 or instance in world.instances:
        raise ValueError(f"instance must be new, above 0 and not one of {world.instances}, got {instance}")
    return instance


def _insert(world: World, edit: Insert) -> tuple[WorldObject, ...]:
    for instance in {o.instance for o in edit.objects}:
        _new_instance(world, instance)
    return world.objects + edit.objects


def _duplicate(world: World, edit: Duplicate) -> tuple[WorldObject, ...]:
    members = _members(world, edit.instance)
    suffix = f".copy{_new_instance(world, edit.new_instance)}"
    names = {o.name for o in members}
    copies = []
    for obj in members:
        placed = _placed(obj, edit.transform, members)
        parent = f"{obj.parent}{suffix}" if obj.parent in names else obj.parent
        origin = obj.origin or obj.name
        copies.append(replace(placed, name=obj.name + suffix, instance=edit.new_instance, parent=parent, origin=origin))
    return world.objects + tuple(copies)


def _retime(world: World, edit: Retime) -> tuple[WorldObject, ...]:
    members = _members(world, edit.instance)
    return tuple(replace(o, warps=(edit.warp, *o.warps)) if o in members else o for o in world.objects)


_EDITORS = {Move: _move, Remove: _remove, Insert: _insert, Duplicate: _duplicate, Retime: _retime}
