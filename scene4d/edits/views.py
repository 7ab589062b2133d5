"""Views of a project's cameras, and mask files in them, for selections."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from scene4d.edits.lifting import mask_runs
from scene4d.edits.selections import Mask, Selection, View, read_selection
from scene4d.errors import InputError
from scene4d.files.atomic import read_json
from scene4d.files.project import Project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.paths import CameraPath, cameras_at


def camera_view(project: Project, name: str, time: float) -> View:
    """The view of a project's camera at a time. Raises ValueError: there is no such camera."""
    known = {camera.name: camera for camera in project.cameras}
    if name not in known:
        raise ValueError(f"camera must be one of {', '.join(list(known)[:12]) or 'none'}, got {name!r}")
    return view_of(known[name], time)


def view_of(camera: ProjectCamera, time: float) -> View:
    """The view of a camera at a time; between its frames along the curve of `scene4d.paths`."""
    T = max(len(camera.world_to_cam), len(camera.K))
    keys = torch.tensor(camera.times[:T] if T > 1 else (0.0,), dtype=torch.float64)
    poses, K = camera.world_to_cam.expand(T, 4, 4), camera.K.expand(T, 3, 3)
    path = CameraPath(keys, poses, K, camera.width, camera.height)
    now = cameras_at(path, torch.tensor([time], dtype=torch.float64))
    pose, K = now.world_to_cam[0].flatten().tolist(), now.K[0].flatten().tolist()
    return View(tuple(pose), tuple(K), camera.width, camera.height, time)


def resized_view(view: View, width: int, height: int) -> View:
    """The view with pictures of another size that show the same."""
    x, y = width / view.width, height / view.height
    K = list(view.K)
    K[0], K[2], K[4], K[5] = K[0] * x, K[2] * x, K[4] * y, K[5] * y
    return View(view.world_to_cam, tuple(K), width, height, view.time)


def mask_file(file: Path, view: View) -> Mask:
    """A picture as a mask in a view: on where it is not black. It may have another size, of the same shape.

    Raises InputError: it cannot be read, or its shape is another.
    """
    picture = cv2.imread(str(file), cv2.IMREAD_UNCHANGED) if file.is_file() else None
    if picture is None:
        raise InputError(f"{file}: is no picture that can be read")
    on = picture > 0 if picture.ndim == 2 else (picture[..., :3] > 0).any(-1)
    height, width = picture.shape[:2]
    if abs(width / height - view.width / view.height) > 0.02 * view.width / view.height:
        raise InputError(f"{file}: is {width}x{height}, its camera {view.width}x{view.height}: the shapes differ")
    return Mask(resized_view(view, width, height), mask_runs(torch.from_numpy(np.ascontiguousarray(on))))


def selection_file(file: Path) -> Selection:
    """An expression in a JSON file. Raises InputError."""
    data = read_json(file)
    try:
        return read_selection(data)
    except ValueError as e:
        raise InputError(f"{file}: {e}") from e
