"""The edited scene of a project."""

from __future__ import annotations

from pathlib import Path

from scene4d.edits.scene import EditedScene
from scene4d.edits.stack import EditStack, read_stack
from scene4d.errors import InputError
from scene4d.files.project import EDITS, Project


def load_edited(project: Project, folder: Path | None = None) -> EditedScene:
    """The scene of a project after its edits. `folder` is where the project lies: inserted scenes are read from it.

    Raises:
        InputError: the stack is damaged, an edit does not fit the scene, or an asset is missing or damaged.
    """
    from scene4d.edits.assets import load_assets  # not at the top: reads files

    place = EDITS if folder is None else str(folder / EDITS)
    stack = read_project_stack(project, place)
    assets = load_assets(stack, folder)
    try:
        return EditedScene(project.scene, stack, assets)
    except ValueError as e:
        hint = "`scene4d edit NAME.s4d list` shows the edits, undo, off and clear take them away"
        raise InputError(f"{place}: {e}; {hint}") from e


def read_project_stack(project: Project, place: str = EDITS) -> EditStack:
    """Raises InputError."""
    try:
        return read_stack(project.edits)
    except ValueError as e:
        raise InputError(f"{place}: {e}") from e
