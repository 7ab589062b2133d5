"""A capture: posed frames of a dynamic scene, read lazily.

A `View` is one frame of one camera. Everything in it is in the conventions of `renderers` (OpenCV axes, `world_to_cam`,
pinhole K in pixels with pixel centres at +0.5): axes were converted and lens distortion undone by the readers.
Views that share `frame` show the same instant.

T views, H W pixels, P points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.captures.checks import chosen_frames
from scene4d.captures.frames import CameraTrack, FrameStore
from scene4d.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One frame of one camera, at the size in which the capture gives it."""

    camera: str
    frame: int  # time index, shared by all cameras
    time: float  # seconds
    world_to_cam: Tensor | None  # [4, 4] float64, rigid; None where the capture has no cameras
    K: Tensor | None  # [3, 3] float64 pixels, of the rectified image
    width: int
    height: int
    item: int  # which picture of its camera's files
    split: str = "train"  # "train", "val" or "test"

    @property
    def key(self) -> tuple[str, int]:
        return self.camera, self.frame


@dataclass(frozen=True, eq=False)
class Points:
    """Sparse points of the static scene, as structure from motion gives them."""

    xyz: Tensor  # [P, 3] float32 world
    rgb: Tensor | None = None  # [P, 3] float32 in [0, 1], sRGB

    def __len__(self) -> int:
        return self.xyz.shape[0]


@dataclass(frozen=True, eq=False)
class Observations:
    """Where one view saw points: pixels of its rectified image at full resolution."""

    points: Tensor  # [M] int64 rows of Points
    pixels: Tensor  # [M, 2] float32, NaN where the lens cannot be inverted


@dataclass(frozen=True, eq=False)
class Capture:
    """What a reader found. Copies made by `resized` and `subset` share files and cache with their origin."""

    root: Path
    format: str
    views: tuple[View, ...]  # ordered by frame, then camera
    tracks: Mapping[str, CameraTrack]
    fps: float | None = None
    points: Points | None = None
    observations: Mapping[tuple[str, int], Observations] = field(default_factory=dict)  # by View.key
    units: str = "scene units"  # or "m"
    near_far: tuple[float, float] | None = None  # depth range that the file gives, in its world units
    notes: tuple[str, ...] = ()  # what was ambiguous or odd, as it was also warned
    store: FrameStore = field(default_factory=FrameStore)

    def __len__(self) -> int:
        return len(self.views)

    @property
    def camera_names(self) -> list[str]:
        return list(dict.fromkeys(v.camera for v in self.views))

    @property
    def frames(self) -> list[int]:
        """The distinct frame indices, ascending."""
        return sorted({v.frame for v in self.views})

    @property
    def duration(self) -> float:
        """Seconds from the first frame to the last."""
        times = [v.time for v in self.views]
        return max(times) - min(times)

    @property
    def has_cameras(self) -> bool:
        return all(v.world_to_cam is not None and v.K is not None for v in self.views)

    def has(self, layer: str) -> bool:
        """Whether any camera has "image", "mask", "depth", "valid" or "covisible" pictures."""
        return any(layer in self.tracks[name].layers for name in self.camera_names)

    def view(self, camera: str, frame: int) -> View:
        found = self._by_key.get((camera, frame))
        if found is None:
            raise InputError(f"{self.root}: camera {camera} has no frame {frame}")
        return found

    @cached_property
    def _by_key(self) -> dict[tuple[str, int], View]:
        return {v.key: v for v in self.views}

    def at(self, frame: int) -> list[View]:
        """The views of one instant."""
        return [v for v in self.views if v.frame == frame]

    def split(self, name: str) -> list[View]:
        return [v for v in self.views if v.split == name]

    def is_static(self, camera: str) -> bool:
        """Whether a camera keeps its pose."""
        poses = {id(v.world_to_cam): v.world_to_cam for v in self.views if v.camera == camera}  # often one, shared
        known = [p for p in poses.values() if p is not None]
        return len(known) == len(poses) and all(torch.equal(known[0], p) for p in known)

    def cameras(self, views: Sequence[View], dtype: torch.dtype = torch.float32) -> Cameras:
        """The cameras of views of one size. Raises InputError without cameras, ValueError for mixed sizes."""
        if not views:
            raise ValueError("views must not be empty")
        poses = [v.world_to_cam for v in views if v.world_to_cam is not None]
        intrinsics = [v.K for v in views if v.K is not None]
        if len(poses) < len(views) or len(intrinsics) < len(views):
            raise InputError(
                f"{self.root}: has no cameras; estimate them with "
                "`scene4d inspect CAPTURE --estimate-cameras --out FOLDER`"
            )
        sizes = {(v.width, v.height) for v in views}
        if len(sizes) > 1:
            raise ValueError(f"views must have one size, got {sorted(sizes)}; take the cameras one by one")
        ((width, height),) = sizes
        return Cameras(torch.stack(poses).to(dtype), torch.stack(intrinsics).to(dtype), width, height)

    def image_u8(self, view: View) -> Tensor:
        """uint8 [H, W, 3] sRGB: a quarter of the memory of `image`, for caches."""
        found = self._read(view, "image")
        if found is None:
            raise InputError(f"{self.root}: camera {view.camera} has no image of frame {view.frame} (cameras only)")
        return torch.from_numpy(found.copy())

    def image(self, view: View) -> Tensor:
        """float32 [H, W, 3] in [0, 1], sRGB as captured."""
        return self.image_u8(view).to(torch.float32).div_(255.0)

    def images(self, views: Iterable[View]) -> Tensor:
        """float32 [T, H, W, 3] of views of one size."""
        return torch.stack([self.image(v) for v in views])

    def labels(self, view: View) -> Tensor | None:
        """int32 [H, W] instance ids as the mask files number them, 0 = background; None without a mask."""
        found = self._read(view, "mask")
        return None if found is None else torch.from_numpy(found.astype(np.int32))

    def mask(self, view: View, label: int | None = None) -> Tensor | None:
        """bool [H, W], True = belongs to the object (any, or the one with this id); None without a mask."""
        found = self._read(view, "mask")
        if found is None:
            return None
        return torch.from_numpy(found > 0 if label is None else found == label)

    def depth(self, view: View) -> Tensor | None:
        """float32 [H, W] z in scene units, 0 = none; None where the frame has no depth."""
        found = self._read(view, "depth")
        return None if found is None else torch.from_numpy(found.copy())

    def valid(self, view: View) -> Tensor | None:
        """bool [H, W], False = leave this pixel out of losses and metrics; None = all are good."""
        found = self._read(view, "valid")
        return None if found is None else torch.from_numpy(found > 0)

    def covisible(self, view: View) -> Tensor | None:
        """bool [H, W], True = seen by enough training views to be compared (DyCheck); None where not given."""
        found = self._read(view, "covisible")
        return None if found is None else torch.from_numpy(found > 0)

    def _read(self, view: View, layer: str) -> np.ndarray | None:
        return self.store.read(self.tracks[view.camera], layer, view.item, (view.width, view.height))

    def resized(self, long_side: int) -> Capture:
        """The capture with pictures of at most `long_side` pixels. K scales by the exact ratio of the sizes.

        With pixel centres at +0.5 no offset is needed: pixel coordinates scale as lengths do. Sizes are rounded to
        whole pixels, so the two axes may scale by slightly different factors.
        """
        if long_side < 1:
            raise ValueError(f"long_side must be at least 1, got {long_side}")
        scaled: dict[tuple, Tensor] = {}
        return replace(self, views=tuple(_resized(v, long_side, scaled) for v in self.views))

    def subset(
        self, frames: str | Iterable[int] | None = None, cameras: Iterable[str] | None = None, split: str | None = None
    ) -> Capture:
        """The views whose frame index, camera and split are chosen.

        `frames` is "a:b:step" over frame indices (a Python slice: negative counts from the end) or a list of them.
        """
        if isinstance(frames, str):
            frames = chosen_frames(frames, self.frames[-1], "frames")
        kept = set(self.frames if frames is None else frames)
        names = set(self.camera_names if cameras is None else cameras)
        unknown = sorted(names - set(self.camera_names))
        if unknown:
            raise InputError(f"{self.root}: no camera {unknown[0]!r}; it has {', '.join(self.camera_names)}")
        views = tuple(
            v for v in self.views if v.frame in kept and v.camera in names and (split is None or v.split == split)
        )
        if not views:
            raise InputError(
                f"{self.root}: no view is left of frames {frames!r}, cameras {sorted(names)}, split {split!r}"
            )
        return replace(self, views=views)


def _resized(view: View, long_side: int, scaled: dict[tuple, Tensor]) -> View:
    factor = long_side / max(view.width, view.height)
    if factor >= 1.0:
        return view
    width, height = max(1, round(view.width * factor)), max(1, round(view.height * factor))
    K = view.K
    if K is not None:
        key = (id(view.K), width, height)  # views of a static camera share their K
        if key not in scaled:
            scaled[key] = K * K.new_tensor([width / view.width, height / view.height, 1.0])[:, None]
        K = scaled[key]
    return replace(view, K=K, width=width, height=height)
