"""Triangle meshes as Gaussians: flat discs spread over the surface, coloured as it is.

N Gaussians, V vertices, F triangles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from renderers.spherical_harmonics import C0
from scene4d.errors import InputError
from scene4d.scene import Scene4D

SUFFIXES = (".obj", ".glb", ".gltf", ".off", ".stl", ".ply")
RADIUS = 0.6  # standard deviation of a disc in units of the distance between discs: neighbours blend into a surface
FLATNESS = 0.05  # of its thickness
OPACITY = 0.98
GREY = 0.7
MAX_GAUSSIANS = 5_000_000


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour at every vertex."""

    vertices: np.ndarray  # [V, 3] float64
    faces: np.ndarray  # [F, 3] int64
    colors: np.ndarray  # [V, 3] in [0, 1]


def read_mesh(file: Path) -> Mesh:
    """A mesh file, read by trimesh or open3d, whichever is installed.

    Raises:
        InputError: it cannot be read, has no triangles, or neither package is there.
    """
    if not file.is_file():
        raise InputError(f"{file}: is missing")
    readers = {"trimesh": _by_trimesh, "open3d": _by_open3d}
    for reader in readers.values():
        try:
            mesh = reader(file)
        except ImportError:
            continue
        return _checked(mesh, file)
    raise InputError(f"{file}: meshes need trimesh or open3d: pip install 'scene4d[geometry]'")


def _by_trimesh(file: Path) -> Mesh:
    import trimesh  # pyright: ignore[reportMissingImports]  # an extra

    try:
        loaded: Any = trimesh.load(file, force="mesh", process=False)
        visual = loaded.visual if loaded.visual.kind in ("vertex", "face") else loaded.visual.to_color()
        colors = np.asarray(visual.vertex_colors, dtype=np.float64)[:, :3] / 255
        vertices, faces = np.asarray(loaded.vertices, dtype=np.float64), np.asarray(loaded.faces, dtype=np.int64)
    except Exception as e:  # each format has exceptions of its own
        raise InputError(f"{file}: cannot be read as a mesh: {' '.join(str(e).split())[:120]}") from e
    if len(colors) != len(vertices):
        colors = np.full((len(vertices), 3), GREY)
    return Mesh(vertices, faces, colors)


def _by_open3d(file: Path) -> Mesh:
    import open3d  # pyright: ignore[reportMissingImports]  # an extra

    loaded = open3d.io.read_triangle_mesh(str(file))  # gives an empty mesh for what it cannot read
    vertices, faces = np.asarray(loaded.vertices), np.asarray(loaded.triangles).astype(np.int64)
    colors = np.asarray(loaded.vertex_colors) if loaded.has_vertex_colors() else np.full((len(vertices), 3), GREY)
    return Mesh(vertices.astype(np.float64), faces, colors.astype(np.float64))


def _checked(mesh: Mesh, file: Path) -> Mesh:
    V = len(mesh.vertices)
    if not len(mesh.faces) or mesh.vertices.ndim != 2 or mesh.vertices.shape[1] != 3:
        raise InputError(f"{file}: has no triangles")
    if mesh.faces.min() < 0 or mesh.faces.max() >= V or not np.isfinite(mesh.vertices).all():
        raise InputError(f"{file}: its triangles must join vertices that are there and finite")
    return mesh


def mesh_scene(mesh: Mesh, spacing: float | None = None, seed: int = 0) -> Scene4D:
    """Discs about `spacing` apart (scene units; None: 20,000 of them), oriented along the surface; float32, instance 1.

    Raises ValueError: the spacing is not above 0 or would give more than MAX_GAUSSIANS, or the surface has no area.
    """
    corners = mesh.vertices[mesh.faces]  # [F, 3, 3]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(cross, axis=1) / 2
    total = float(areas.sum())
    if not total > 0:
        raise ValueError("mesh must have an area above 0, got none")
    spacing = math.sqrt(total / 20_000) if spacing is None else spacing
    if not 0 < spacing < math.inf or total / spacing**2 > MAX_GAUSSIANS:
        raise ValueError(f"spacing must be above 0 and give at most {MAX_GAUSSIANS} Gaussians, got {spacing}")
    N = max(round(total / spacing**2), 1)
    face, weights = _spread(areas, N, np.random.default_rng(seed))
    points = np.einsum("nk,nkd->nd", weights, corners[face])
    colors = np.einsum("nk,nkd->nd", weights, mesh.colors[mesh.faces[face]])
    normals = cross[face] / np.linalg.norm(cross[face], axis=1, keepdims=True)
    scales = np.full((N, 3), math.log(RADIUS * spacing))
    scales[:, 2] += math.log(FLATNESS)
    ids = torch.zeros(N, dtype=torch.int32)
    return Scene4D(
        means=torch.from_numpy(points).float(),
        quats=torch.from_numpy(_from_z(normals)).float(),
        log_scales=torch.from_numpy(scales).float(),
        logit_opacities=torch.full((N,), math.log(OPACITY / (1 - OPACITY))),
        sh=torch.from_numpy((colors - 0.5) / C0).float()[:, None],
        labels=ids,
        instances=ids + 1,
    )


def _spread(areas: np.ndarray, N: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Triangles [N] and barycentric weights [N, 3]: even steps along the summed area, and the R2 sequence within."""
    share = (np.arange(N) + 0.5) / N * areas.sum()
    face = np.minimum(np.searchsorted(areas.cumsum(), share), len(areas) - 1)
    k = np.arange(N)[:, None]  # Roberts 2018: multiples of these two fill a square most evenly
    u, v = np.modf(random.uniform(size=2) + k * np.array([0.7548776662466927, 0.5698402909980532]))[0].T
    root = np.sqrt(u)
    return face, np.stack([1 - root, root * (1 - v), root * v], 1)


def _from_z(normals: np.ndarray) -> np.ndarray:
    """Quaternions [N, 4] wxyz that turn z to the normals."""
    axis = np.cross(np.array([0.0, 0, 1]), normals)
    sine = np.linalg.norm(axis, axis=1, keepdims=True)
    angle = np.arctan2(sine, normals[:, 2:])
    unit = np.where(sine > 1e-12, axis / np.maximum(sine, 1e-12), np.array([1.0, 0, 0]))
    return Rotation.from_rotvec(unit * angle).as_quat(scalar_first=True)
