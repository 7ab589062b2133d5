"""`cameras.json` of a project: the cameras of its capture without their pictures, in the words of docs/captures.md.

T frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scene4d.errors import InputError

if TYPE_CHECKING:
    from scene4d.captures import Capture

FORMAT, VERSION = "scene4d-cameras", 1
MAX_SIDE = 32768  # pixels


@dataclass(frozen=True, eq=False)
class ProjectCamera:
    """A camera of the rectified capture, at full size."""

    name: str
    width: int
    height: int
    times: tuple[float, ...]  # [T] seconds
    K: Tensor  # [1 or T, 3, 3] float64 pixels
    world_to_cam: Tensor  # [1 or T, 4, 4] float64; one: the camera stands still
    exposure: Tensor | None = None  # [3, 4] float64: a picture shows exposure[:, :3] @ rgb + exposure[:, 3]; None = rgb

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if type(side) is not int or not 1 <= side <= MAX_SIDE:
                raise ValueError(f"camera {self.name}: {name} must be 1 to {MAX_SIDE}, got {side}")
        if not all(math.isfinite(time) for time in self.times):
            raise ValueError(f"camera {self.name}: times must be finite")
        for name, tensor, side in (("K", self.K, 3), ("world_to_cam", self.world_to_cam, 4)):
            good = tensor.ndim == 3 and tensor.shape[1:] == (side, side) and len(tensor) in (1, len(self.times))
            if not good or tensor.dtype != torch.float64:
                rule = f"float64 [1 or {len(self.times)}, {side}, {side}]"
                raise ValueError(f"camera {self.name}: {name} must be {rule}, got {tensor.dtype} {list(tensor.shape)}")
            if not tensor.isfinite().all():
                raise ValueError(f"camera {self.name}: {name} must be finite")
        if self.exposure is not None:
            _check_exposure(self.name, self.exposure)


def _check_exposure(name: str, exposure: Tensor) -> None:
    if exposure.dtype != torch.float64 or exposure.shape != (3, 4):
        got = f"{exposure.dtype} {list(exposure.shape)}"
        raise ValueError(f"camera {name}: exposure must be float64 [3, 4], got {got}")
    if not exposure.isfinite().all():
        raise ValueError(f"camera {name}: exposure must be finite")


def capture_cameras(capture: Capture) -> tuple[ProjectCamera, ...]:
    """The cameras of a capture. Raises InputError: a view has none."""
    cameras = []
    for name in capture.camera_names:
        views = [view for view in capture.views if view.camera == name]
        matrices = [view.K for view in views if view.K is not None]
        poses = [view.world_to_cam for view in views if view.world_to_cam is not None]
        if len(matrices) < len(views) or len(poses) < len(views):
            raise InputError(f"{capture.root}: camera {name} has no pose or no K; `scene4d inspect` can estimate them")
        times = tuple(view.time for view in views)
        size = views[0].width, views[0].height
        cameras.append(ProjectCamera(name, *size, times, _shared(torch.stack(matrices)), _shared(torch.stack(poses))))
    return tuple(cameras)


def _shared(matrices: Tensor) -> Tensor:
    """The first alone where all are equal."""
    return matrices[:1] if bool((matrices == matrices[:1]).all()) else matrices


def cameras_json(cameras: Sequence[ProjectCamera]) -> dict[str, Any]:
    return {"format": FORMAT, "version": VERSION, "cameras": [_camera_json(camera) for camera in cameras]}


def _camera_json(camera: ProjectCamera) -> dict[str, Any]:
    found = {
        "name": camera.name,
        "width": camera.width,
        "height": camera.height,
        "times": list(camera.times),
        "K": _matrices(camera.K),
        "world_to_cam": _matrices(camera.world_to_cam),
    }
    return found if camera.exposure is None else found | {"exposure": camera.exposure.tolist()}


def parse_cameras(data: dict[str, Any], path: Path) -> tuple[ProjectCamera, ...]:
    """The inverse. Raises InputError."""
    found = data.get("cameras")
    if data.get("format") != FORMAT or not isinstance(found, list):
        raise InputError(f"{path}: must hold a list of cameras of format {FORMAT!r}")
    if type(data.get("version")) is not int or not 1 <= data["version"] <= VERSION:
        raise InputError(f"{path}: version {str(data.get('version'))[:20]} is none that scene4d reads; update scene4d")
    try:
        return tuple(
            ProjectCamera(
                name=str(camera["name"]),
                width=camera["width"],
                height=camera["height"],
                times=tuple(float(time) for time in camera["times"]),
                K=_tensor(camera["K"], 3),
                world_to_cam=_tensor(camera["world_to_cam"], 4),
                exposure=torch.tensor(camera["exposure"], dtype=torch.float64) if "exposure" in camera else None,
            )
            for camera in found
        )
    # RuntimeError: torch, of ragged lists; OverflowError: an integer too large for a float
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as e:
        words = "".join(c if c.isprintable() else " " for c in str(e))  # they may repeat what the file says
        raise InputError(f"{path}: {words[:120]}") from e


def _matrices(matrices: Tensor) -> list:
    """One, or one a frame."""
    return matrices[0].tolist() if len(matrices) == 1 else matrices.tolist()


def _tensor(value: Any, side: int) -> Tensor:
    tensor = torch.tensor(value, dtype=torch.float64)
    return tensor.reshape(1, side, side) if tensor.shape == (side, side) else tensor
