"""Edits of projects on disk. Every change is one atomic write of the stack; what it needs was written before it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from scene4d.edits.assets import store_asset
from scene4d.edits.baking import BakeError, bake_error, bake_scene
from scene4d.edits.clocks import TimeMap
from scene4d.edits.colours import Lut
from scene4d.edits.importing import read_thing, scene_as_asset, table_as_asset
from scene4d.edits.loading import load_edited, read_project_stack
from scene4d.edits.operations import Insert, Operation, Recolour
from scene4d.edits.placements import Placement
from scene4d.edits.scene import EditedScene
from scene4d.edits.selections import Selection
from scene4d.edits.stack import EditStack
from scene4d.errors import InputError
from scene4d.files.project import EDITS, Project, load_project, save_project, update_project
from scene4d.scene import Scene4D


@dataclass(frozen=True)
class Opened:
    """A project on disk and its edited scene."""

    folder: Path
    project: Project
    edited: EditedScene


def open_edited(folder: Path) -> Opened:
    """Raises InputError."""
    project = load_project(folder)
    return Opened(folder, project, load_edited(project, folder))


def add_edit(opened: Opened, operation: Operation) -> EditedScene:
    """Apply an edit and save it. The last line of the result's `report` tells what it changed.

    Raises InputError: it cannot be applied or saved; the project stays as it was.
    """
    after = _tried(opened, operation, {})
    save_stack(opened.folder, after.stack)
    return after


def _tried(opened: Opened, operation: Operation, assets: dict[str, Scene4D | Lut]) -> EditedScene:
    try:
        return opened.edited.then(operation, assets)
    except ValueError as e:
        raise InputError(f"{opened.folder}: {e}") from e


def _add_with_asset(opened: Opened, operation: Operation, asset: Scene4D | Lut, file: str, data: bytes) -> EditedScene:
    """The asset is on disk before the stack that needs it, and only if the edit can be applied."""
    sha256, _, suffix = file.rpartition(".")
    after = _tried(opened, operation, {sha256: asset})
    store_asset(opened.folder, sha256, f".{suffix}", data)
    save_stack(opened.folder, after.stack)
    return after


def save_stack(folder: Path, stack: EditStack) -> None:
    update_project(folder, edits=tuple(stack.to_json()))


def stack_on_disk(folder: Path) -> EditStack:
    """The stack alone, also where it does not fit the scene any more. Raises InputError."""
    return read_project_stack(load_project(folder), str(folder / EDITS))


def insert_thing(
    opened: Opened,
    path: Path,
    *,
    placement: Placement,
    instance: int | None = None,
    clock: TimeMap | None = None,
    label: int | None = None,
    spacing: float | None = None,
) -> EditedScene:
    """Insert what a file holds, as a new instance (None: the next free). Raises InputError."""
    scene = read_thing(path, spacing)
    sha256, data = scene_as_asset(scene, path)
    number = free_instance(opened.edited) if instance is None else instance
    name = "".join(c if c.isprintable() else "?" for c in path.name)[:80]
    operation = Insert(sha256, name, number, placement, clock, label)
    return _add_with_asset(opened, operation, scene, f"{sha256}.ply", data)


def recolour_by_table(opened: Opened, select: Selection, path: Path, amount: float = 1.0) -> EditedScene:
    """Recolour by a .cube file. Raises InputError."""
    sha256, data, table = table_as_asset(path)
    operation = Recolour(select, lut=sha256, lut_amount=amount)
    return _add_with_asset(opened, operation, table, f"{sha256}.cube", data)


def free_instance(edited: EditedScene) -> int:
    """One more than the largest instance."""
    largest = [int(x.max()) for x in (edited.instances, edited.source.instances) if len(x)]
    return max([*largest, 0]) + 1


def bake_project(opened: Opened, out: Path, times: list[float] | None = None) -> tuple[Scene4D, BakeError]:
    """Write a project whose plain scene shows what the edited one does, with an empty stack. Raises InputError."""
    try:
        scene = bake_scene(opened.edited, times)
        error = bake_error(opened.edited, scene, times)
        scene.validate()
    except ValueError as e:
        raise InputError(f"{opened.folder}: {e}") from e
    p = opened.project
    capture = p.capture
    if capture is not None and not Path(capture).is_absolute():
        capture = os.path.relpath((opened.folder / capture).resolve(), out.resolve())
    save_project(
        out,
        Project(scene.to(dtype=p.scene.means.dtype), capture, p.cameras, (), p.units, p.fps, p.canonical_time, p.fit),
    )
    return scene, error
