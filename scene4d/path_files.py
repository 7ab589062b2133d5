"""Files of camera paths: our own JSON and nerfstudio's camera_path.json (docs/rendering.md)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scene4d.errors import InputError
from scene4d.files.atomic import read_json, write_json
from scene4d.paths import CameraPath, cameras_at, frame_times, scene_times_at

FORMAT, VERSION = "scene4d-camera-path", 1
MAX_KEYS = 1_000_000
FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))  # OpenGL camera axes <-> OpenCV's


def save_path(file: Path, path: CameraPath) -> None:
    """Write our own format, exactly. Raises InputError: it cannot be written."""
    write_json(file, path_json(path))


def path_json(path: CameraPath) -> dict[str, Any]:
    """The content of a file in our own format."""
    keys = []
    for k in range(len(path)):
        key = {"time": path.times[k].item(), "world_to_cam": path.world_to_cam[k].tolist(), "K": path.K[k].tolist()}
        if path.scene_times is not None:
            key["scene_time"] = path.scene_times[k].item()
        keys.append(key)
    plain = {name: getattr(path, name) for name in ("width", "height", "closed", "easing")}
    return {"format": FORMAT, "version": VERSION, **plain, "keyframes": keys}


def load_path(file: Path) -> CameraPath:
    """Read our own format or nerfstudio's. Raises InputError, in one line that names what is wrong."""
    data = read_json(file)
    try:
        return parse_path(data)
    except ValueError as e:
        raise InputError(f"{file}: {e}") from e


def parse_path(data: dict[str, Any]) -> CameraPath:
    """The path in the content of a file. Raises ValueError, in one line that says what is wrong."""
    if data.get("format") == FORMAT:
        read = _ours
    elif "camera_path" in data or "keyframes" in data:
        read = _nerfstudio
    else:
        raise ValueError(f"is no camera path: neither format {FORMAT!r} nor nerfstudio's camera_path")
    try:
        return read(data)
    except KeyError as e:
        raise ValueError(f"{e} is missing") from e
    except (TypeError, ValueError, OverflowError, RuntimeError) as e:  # RuntimeError: torch, of ragged lists
        raise ValueError(" ".join(str(e).split())[:160]) from e


def save_nerfstudio(file: Path, path: CameraPath, fps: float) -> None:
    """Write nerfstudio's camera_path.json: a camera for each frame at `fps`, and the key frames for its editor.

    The format has one vertical field of view a frame: a principal point off the centre and pixels that are not square
    are lost. `render_time` is in seconds of the scene and there if the path has `scene_times`.

    Raises InputError: it cannot be written. ValueError: `fps` is not above 0.
    """
    times = frame_times(path, fps)
    frames = _entries(path, times, "camera_to_world", "fov")
    keys = _entries(path, path.times, "matrix", "fov")
    gaps = path.times.diff().tolist() + [0.0]
    for key, gap in zip(keys, gaps, strict=True):
        key |= {"override_transition_enabled": True, "override_transition_sec": gap}
    whole = {
        "default_fov": frames[0]["fov"],
        "default_transition_sec": gaps[0],
        "keyframes": keys,
        "camera_type": "perspective",
        "render_height": path.height,
        "render_width": path.width,
        "fps": fps,
        "seconds": len(frames) / fps,
        "is_cycle": path.closed,
        "smoothness_value": 0.0,
        "camera_path": frames,
    }
    write_json(file, whole)


def _entries(path: CameraPath, times: Tensor, matrix: str, fov: str) -> list[dict[str, Any]]:
    cameras, scene_times = cameras_at(path, times), scene_times_at(path, times)
    entries = []
    for k, (pose, K) in enumerate(zip(cameras.world_to_cam, cameras.K, strict=True)):
        c2w = torch.linalg.inv(pose) @ FLIP
        degrees = math.degrees(2 * math.atan(path.height / 2 / float(K[1, 1])))
        entry = {matrix: c2w.flatten().tolist(), fov: degrees, "aspect": path.width / path.height}
        entries.append(entry if scene_times is None else entry | {"render_time": scene_times[k].item()})
    return entries


def _ours(data: dict[str, Any]) -> CameraPath:
    version, width, height = data.get("version"), _side(data, "width"), _side(data, "height")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise ValueError(f"version {str(version)[:20]} is none that scene4d reads; update scene4d")
    keys = _list(data, "keyframes")
    K = [_array(k["K"], 9).reshape(3, 3) if "K" in k else _of_fov(k["fov"], width, height) for k in keys]
    timed = ["scene_time" in key for key in keys]
    if any(timed) and not all(timed):
        raise ValueError(f"key frame {timed.index(False)} has no scene_time, others have; give all or none")
    return CameraPath(
        times=_array([key["time"] for key in keys], len(keys)),
        world_to_cam=torch.stack([_array(key["world_to_cam"], 16).reshape(4, 4) for key in keys]),
        K=torch.stack(K),
        width=width,
        height=height,
        scene_times=_array([key["scene_time"] for key in keys], len(keys)) if all(timed) else None,
        closed=_flag(data.get("closed", False), "closed"),
        easing=data.get("easing", "linear"),
    )


def _nerfstudio(data: dict[str, Any]) -> CameraPath:
    """The frames under `camera_path`, as its renderers read them; `keyframes` are for its editor only."""
    kind = data.get("camera_type", "perspective")
    if str(kind).lower() != "perspective":
        raise ValueError(f"camera_type must be perspective, got {str(kind)[:40]!r}")
    frames = _list(data, "camera_path")
    width, height = _side(data, "render_width"), _side(data, "render_height")
    fps = _number(data["fps"], "fps")
    if not fps > 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    timed = all(frame.get("render_time") is not None for frame in frames)  # its rule: used only if all have one
    return CameraPath(
        times=torch.arange(len(frames), dtype=torch.float64) / fps,
        world_to_cam=torch.stack([torch.linalg.inv(_matrix(frame["camera_to_world"]) @ FLIP) for frame in frames]),
        K=torch.stack([_of_fov(frame["fov"], width, height) for frame in frames]),
        width=width,
        height=height,
        scene_times=_array([frame["render_time"] for frame in frames], len(frames)) if timed else None,
    )


def _matrix(value: Any) -> Tensor:
    """Sixteen numbers, row by row; older files have a JSON string, and column by column."""
    if isinstance(value, str):
        value = json.loads(value)
    matrix = _array(value, 16).reshape(4, 4)
    bottom = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)
    matrix = matrix if torch.equal(matrix[3], bottom) else matrix.T
    if not torch.equal(matrix[3], bottom):
        raise ValueError(f"a pose must have a last row 0 0 0 1, got {matrix.T[3].tolist()}")
    return matrix


def _of_fov(degrees: Any, width: int, height: int) -> Tensor:
    """K of a vertical field of view, principal point in the middle, square pixels."""
    degrees = _number(degrees, "fov")
    if not 0 < degrees < 180:
        raise ValueError(f"fov must be between 0 and 180 degrees, got {degrees}")
    focal = height / 2 / math.tan(math.radians(degrees) / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)


def _list(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = data.get(name)
    if not isinstance(found, list) or not 1 <= len(found) <= MAX_KEYS or not all(isinstance(x, dict) for x in found):
        raise ValueError(f"{name} must be a list of 1 to {MAX_KEYS} objects")
    return found


def _array(value: Any, count: int) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float64)
    if tensor.numel() != count:
        raise ValueError(f"a list of {count} numbers is needed, got {tensor.numel()}")
    return tensor.flatten()


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {str(value)[:40]!r}")
    return float(value)


def _side(data: dict[str, Any], name: str) -> int:
    value = _number(data[name], name)  # nerfstudio writes some sizes as 1080.0
    if not value.is_integer():
        raise ValueError(f"{name} must be a whole number, got {value}")
    return int(value)


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {str(value)[:40]!r}")
    return value
