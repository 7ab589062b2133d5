"""Things from files as assets of a project: scenes, splats, meshes and lookup tables."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from scene4d.edits.assets import scene_asset
from scene4d.edits.colours import MAX_CUBE_BYTES, Lut, parse_cube
from scene4d.edits.loading import load_edited
from scene4d.errors import InputError
from scene4d.files.atomic import read_bytes
from scene4d.files.meshes import SUFFIXES, mesh_scene, read_mesh
from scene4d.files.project import MAX_BLOB_BYTES, load_project
from scene4d.files.scene_ply import TITLE, parse_scene
from scene4d.files.splat_ply import read_splat
from scene4d.scene import Scene4D

HEAD = 1 << 16


def read_thing(path: Path, spacing: float | None = None) -> Scene4D:
    """A project (with its edits baked in), a PLY of Gaussians, ours or 3DGS's, or a mesh.

    `spacing`: scene units between the Gaussians of a mesh. Raises InputError.
    """
    if path.is_dir():
        project = load_project(path)
        return load_edited(project, path).bake_scene()
    suffix = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: is missing")
    if suffix == ".ply":
        head = _head(path)
        if f"comment {TITLE}".encode() in head:
            return parse_scene(read_bytes(path, MAX_BLOB_BYTES), path)
        if b"element face" not in head:
            return read_splat(path)
    if suffix not in SUFFIXES:
        raise InputError(f"{path}: must be a project NAME.s4d, a PLY of Gaussians or a mesh ({' '.join(SUFFIXES)})")
    try:
        return mesh_scene(read_mesh(path), spacing)
    except InputError:
        raise
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD).split(b"end_header")[0]
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from e


def scene_as_asset(scene: Scene4D, path: Path) -> tuple[str, bytes]:
    """sha256 and content of a scene's asset. Raises InputError."""
    try:
        return scene_asset(scene.to("cpu", torch.float32))
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def table_as_asset(path: Path) -> tuple[str, bytes, Lut]:
    """sha256, content and table of a .cube file. Raises InputError."""
    data = read_bytes(path, MAX_CUBE_BYTES)
    return hashlib.sha256(data).hexdigest(), data, parse_cube(data, path)
