"""What edits bring in from outside, kept in the project folder under the sha256 of its content.

    NAME.s4d/assets/SHA256.ply     a scene, in the layout of scene.ply
    NAME.s4d/assets/SHA256.cube    a lookup table

An asset is written once and never changed; an undone insert keeps it, so that it can be done again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from scene4d.edits.colours import MAX_CUBE_BYTES, Lut, parse_cube
from scene4d.edits.operations import Insert, Recolour
from scene4d.edits.stack import EditStack
from scene4d.errors import InputError
from scene4d.files.atomic import make_folder, read_bytes, write_atomic
from scene4d.files.project import MAX_BLOB_BYTES
from scene4d.files.scene_ply import parse_scene, scene_bytes
from scene4d.scene import Scene4D

ASSETS = "assets"


def load_assets(stack: EditStack, folder: Path | None) -> dict[str, Scene4D | Lut]:
    """What the operations of a stack need, done or undone. Raises InputError: one is missing or damaged."""
    found: dict[str, Scene4D | Lut] = {}
    for step in (*stack.done, *stack.undone):
        operation = step.operation
        if isinstance(operation, Insert) and operation.asset not in found:
            data, file = _read(folder, operation.asset, ".ply", MAX_BLOB_BYTES)
            found[operation.asset] = parse_scene(data, file)
        elif isinstance(operation, Recolour) and operation.lut is not None and operation.lut not in found:
            data, file = _read(folder, operation.lut, ".cube", MAX_CUBE_BYTES)
            found[operation.lut] = parse_cube(data, file)
    return found


def _read(folder: Path | None, sha256: str, suffix: str, limit: int) -> tuple[bytes, Path]:
    if folder is None:
        raise InputError(f"asset {sha256[:12]}... of an edit needs the project's folder to be read from")
    file = folder / ASSETS / f"{sha256}{suffix}"
    data = read_bytes(file, limit)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{file}: was changed or is damaged: its sha256 is not its name")
    return data, file


def scene_asset(scene: Scene4D) -> tuple[str, bytes]:
    """Name and content of a scene as an asset. Raises ValueError: it cannot be stored exactly."""
    data = b"".join(scene_bytes(scene, "scene units", None, 0.0))
    return hashlib.sha256(data).hexdigest(), data


def store_asset(folder: Path, sha256: str, suffix: str, data: bytes) -> None:
    """Write an asset, unless it is there. Raises InputError."""
    file = folder / ASSETS / f"{sha256}{suffix}"
    if not file.is_file():
        make_folder(file.parent)
        write_atomic(file, data)
