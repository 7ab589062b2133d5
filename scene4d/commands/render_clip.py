"""What `scene4d render` renders: the times and the cameras of the frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scene4d.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from renderers import Cameras
    from scene4d.commands.render import Config
    from scene4d.files.project import Project
    from scene4d.files.project_cameras import ProjectCamera
    from scene4d.paths import CameraPath

FALLBACK_FPS = 30.0


@dataclass(frozen=True)
class Clip:
    """The frames to render."""

    times: list[float]  # [T] seconds of the scene
    cameras: Cameras  # [T] float64
    fps: float
    exposure: Tensor | None = None  # [3, 4]

    def frame(self, k: int) -> Cameras:
        from renderers import Cameras

        c = self.cameras
        return Cameras(c.world_to_cam[k : k + 1], c.K[k : k + 1], c.width, c.height)


def make_clip(config: Config, project: Project, paths: Mapping[str, CameraPath] | None = None) -> Clip:
    """Times and cameras of the frames. `paths` are those that the project keeps.

    Raises InputError: the path or camera is none, or the project has no range.
    """
    clip = (
        _along_path(config, project, paths or {}) if config.camera_path is not None else _from_camera(config, project)
    )
    from scene4d.paths import resized

    width, height = _size(config, clip.cameras.width, clip.cameras.height)
    return Clip(clip.times, resized(clip.cameras, width, height), clip.fps, clip.exposure)


def _along_path(config: Config, project: Project, paths: Mapping[str, CameraPath]) -> Clip:
    from scene4d.path_files import load_path
    from scene4d.paths import cameras_at, frame_times, scene_times_at

    assert config.camera_path is not None
    kept, _, name = str(config.camera_path).partition("edits:")
    if not kept and name:
        if name not in paths:
            raise InputError(f"--camera-path edits:{name}: the project keeps {', '.join(paths) or 'no paths'}")
        path = paths[name]
    else:
        path = load_path(config.camera_path)
    fps = config.fps or project.fps or FALLBACK_FPS
    at = frame_times(path, fps)
    times = scene_times_at(path, at) if config.times is None else None
    if times is None:
        first, last = _time_range(config, project)
        times = (first + (at - at[0]) * config.speed).clamp(max=last)  # the scene holds its last moment
    return Clip(times.tolist(), cameras_at(path, at), fps)


def _from_camera(config: Config, project: Project) -> Clip:
    import torch

    assert config.capture_camera is not None
    a, b, share = _find_cameras(config.capture_camera, project)
    own = config.times is None and config.fps is None and config.speed == 1
    fps = config.fps or project.fps or _rate(a.times) or FALLBACK_FPS
    if own and a.times:
        times = torch.tensor(a.times, dtype=torch.float64)
    else:
        first, last = _time_range(config, project)
        count = math.floor((last - first) / config.speed * fps + 1e-6) + 1
        times = first + torch.arange(count, dtype=torch.float64) * config.speed / fps
    cameras = _poses(a, times)
    exposure = a.exposure if config.exposure else None
    if b is not None:
        from scene4d.paths import between

        cameras = between(cameras, _poses(b, times), share)
        if config.exposure:
            same = torch.eye(3, 4, dtype=torch.float64)
            ends = [same if camera.exposure is None else camera.exposure for camera in (a, b)]
            exposure = torch.lerp(ends[0], ends[1], share)
    return Clip(times.tolist(), cameras, fps, exposure)


def _find_cameras(text: str, project: Project) -> tuple[ProjectCamera, ProjectCamera | None, float]:
    """NAME, or NAME:NAME:SHARE; a name may hold colons itself."""
    known = {camera.name: camera for camera in project.cameras}
    if text in known:
        return known[text], None, 0.0
    head, _, share = text.rpartition(":")
    for cut in (i for i, letter in enumerate(head) if letter == ":"):
        if head[:cut] in known and head[cut + 1 :] in known:
            try:
                value = float(share)
            except ValueError:
                value = math.nan
            if not 0 <= value <= 1:
                raise InputError(f"--capture-camera {text}: the share must be a number from 0 to 1, got {share!r}")
            return known[head[:cut]], known[head[cut + 1 :]], value
    names = ", ".join(list(known)[:12]) + (" ..." if len(known) > 12 else "")
    raise InputError(f"--capture-camera {text}: is no camera of the project; it has {names or 'none'}")


def _poses(camera: ProjectCamera, times: Tensor) -> Cameras:
    """The camera at times [T]; between its own frames along the curve of `scene4d.paths`."""
    import torch

    from scene4d.paths import CameraPath, cameras_at

    T = max(len(camera.world_to_cam), len(camera.K))
    keys = camera.times[:T] if T > 1 else (0.0,)
    try:
        path = CameraPath(
            torch.tensor(keys, dtype=torch.float64),
            camera.world_to_cam.expand(T, 4, 4),
            camera.K.expand(T, 3, 3),
            camera.width,
            camera.height,
        )
    except ValueError as e:
        raise InputError(f"camera {camera.name}: {e}") from e
    return cameras_at(path, times)


def _time_range(config: Config, project: Project) -> tuple[float, float]:
    """--times, else that of the cameras' frames, else that of the handles' knots, else the canonical time alone."""
    if config.times is not None:
        return pair(config.times, "times")
    times = [time for camera in project.cameras for time in camera.times]
    if not times and project.scene.rig is not None:
        times = project.scene.rig.knot_times.tolist()
    times = times or [project.canonical_time]
    return min(times), max(times)


def _rate(times: tuple[float, ...]) -> float | None:
    gaps = sorted(b - a for a, b in zip(times, times[1:], strict=False) if b > a)
    return 1 / gaps[len(gaps) // 2] if gaps else None


def _size(config: Config, width: int, height: int) -> tuple[int, int]:
    if config.long_side is not None:
        scale = config.long_side / max(width, height)
    elif config.width and config.height:
        return config.width, config.height
    else:
        scale = config.width / width if config.width else config.height / height if config.height else 1.0
    return max(round(width * scale), 1), max(round(height * scale), 1)


def pair(text: str, name: str) -> tuple[float, float]:
    """The numbers of first:last. Raises ValueError."""
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        first = last = math.nan
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(f"{name} must be two numbers first:last, got {text!r}")
    return first, last


def background(text: str) -> tuple[float, ...]:
    """The colour that a text names. Raises ValueError."""
    named = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}
    try:
        color = named[text] if text in named else tuple(float(part) for part in text.split(","))
    except ValueError:
        color = ()
    if len(color) != 3 or not all(0 <= value <= 1 for value in color):
        raise ValueError(f"background must be black, white or r,g,b from 0 to 1, got {text!r}")
    return color
