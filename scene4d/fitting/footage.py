"""The pictures that a fit looks at: training views in memory at the fit's size, and smaller copies of them.

T views, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from renderers import Cameras
from scene4d.captures import Capture, View
from scene4d.errors import InputError

CACHE_BYTES = 2 << 30
BOX_MARGIN = 16  # pixels: more than the windows of SSIM reach
MOST_OF_PICTURE = 0.6  # a larger box saves too little


@dataclass(frozen=True, eq=False)
class Shot:
    """One training view at one size."""

    camera: Cameras  # one camera
    image: Tensor  # [H, W, 3]
    weights: Tensor | None  # [H, W] 0 = no picture there (black bars, other objects than the scene)
    instances: Tensor | None  # [H, W] int32, 0 = background; None without masks
    depth: Tensor | None  # [H, W] z, 0 = none
    backdrop: Tensor | None = None  # [H, W, 3] only in boxes


@dataclass(frozen=True)
class Box:
    """A part of a picture, in pixels; right and bottom are not in it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def pixels(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)


def joined(a: Box | None, b: Box | None) -> Box | None:
    """The smallest box around two; None where one of them is the whole picture."""
    if a is None or b is None:
        return None
    return Box(min(a.left, b.left), min(a.top, b.top), max(a.right, b.right), max(a.bottom, b.bottom))


@dataclass(eq=False)
class Footage:
    """Training views of a capture. `motion_masks` fill in for masks, `depth_maps` for depth, by View.key.

    A depth map [H, W] of z is taken in place of the capture's own. `backdrops` show what is behind all that moves.
    """

    capture: Capture
    views: tuple[View, ...]
    device: torch.device = torch.device("cpu")
    motion_masks: dict[tuple[str, int], Tensor] = field(default_factory=dict)  # View.key -> bool [H, W]
    depth_maps: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    backdrops: dict[str, Tensor] = field(default_factory=dict)  # camera that stands still -> [H, W, 3]
    triangulated: Tensor | None = None  # [P, 3] world, once it was found, where the capture has no points
    _cache: dict[tuple, Tensor | None] = field(default_factory=dict)
    _boxes: dict[tuple[str, int], Box | None] = field(default_factory=dict)
    _bytes: int = 0

    @property
    def camera_names(self) -> list[str]:
        return list(dict.fromkeys(v.camera for v in self.views))

    @property
    def frames(self) -> list[int]:
        return sorted({v.frame for v in self.views})

    def of_camera(self, name: str) -> list[View]:
        return [v for v in self.views if v.camera == name]

    def at(self, frame: int) -> list[View]:
        return [v for v in self.views if v.frame == frame]

    def time(self, frame: int) -> float:
        return self.at(frame)[0].time

    def image_u8(self, view: View) -> Tensor:
        """uint8 [H, W, 3]."""
        found = self._take("image", view, self.capture.image_u8)
        assert found is not None
        return found

    def image(self, view: View) -> Tensor:
        """float32 [H, W, 3]."""
        return self.image_u8(view).float().div_(255.0)

    def instances(self, view: View) -> Tensor | None:
        """int32 [H, W]: ids of the capture's masks, or 1 where its motion mask is set."""
        if view.key in self.motion_masks:
            return self.motion_masks[view.key].int()
        return self._take("mask", view, self.capture.labels)

    def depth(self, view: View) -> Tensor | None:
        if view.key in self.depth_maps:
            return self.depth_maps[view.key]
        return self._take("depth", view, self.capture.depth)

    def valid(self, view: View) -> Tensor | None:
        return self._take("valid", view, self.capture.valid)

    def _take(self, layer: str, view: View, read: Callable[[View], Tensor | None]) -> Tensor | None:
        key = (layer, *view.key)
        if key not in self._cache:
            found = read(view)
            size = 0 if found is None else found.numel() * found.element_size()
            if self._bytes + size > CACHE_BYTES:
                return found  # a long capture is read again and again rather than held
            self._cache[key] = found
            self._bytes += size
        return self._cache[key]

    def moving_box(self, view: View) -> Box | None:
        """Where something moves in a view, with some room around it; None without masks, or where that is most of it.

        Corners are at multiples of 4 pixels, so that a box can be shrunk as the whole picture is.
        """
        if view.key not in self._boxes:
            self._boxes[view.key] = _box_around(self.instances(view))
        return self._boxes[view.key]

    def shot(self, view: View, shrink: int = 1, box: Box | None = None) -> Shot:
        """A view, or the part of it in a box, at 1 / `shrink` of its size, on the device."""
        layers = [self.image_u8(view), self.valid(view), self.instances(view), self.depth(view), None]
        camera = self.capture.cameras([view])
        if box is not None:
            layers[-1] = self.backdrops.get(view.camera)
            layers = [None if x is None else x[box.top : box.bottom, box.left : box.right] for x in layers]
            camera = _boxed_camera(camera, box)
        picture, valid, ids, depth, backdrop = layers
        assert picture is not None
        image = picture.to(self.device).float().div_(255.0)
        if shrink > 1:
            image, camera = _shrunk(image, shrink), _shrunk_camera(camera, shrink)
            backdrop = None if backdrop is None else _shrunk(backdrop, shrink)
            pick = slice(shrink // 2, None, shrink)
            size = image.shape[:2]
            ids = None if ids is None else ids[pick, pick][: size[0], : size[1]]
            depth = None if depth is None else depth[pick, pick][: size[0], : size[1]]
        weights = None
        if valid is not None and not bool(valid.all()):
            good = valid.to(self.device).float()
            weights = good if shrink == 1 else (_shrunk(good[..., None], shrink)[..., 0] > 0.999).float()
        moved = Cameras(camera.world_to_cam.to(self.device), camera.K.to(self.device), camera.width, camera.height)
        return Shot(
            moved,
            image,
            weights,
            None if ids is None else ids.to(self.device),
            None if depth is None else depth.to(self.device),
            None if backdrop is None else backdrop.to(self.device),
        )


def _shrunk(image: Tensor, shrink: int) -> Tensor:
    """Means of blocks of `shrink` x `shrink` pixels; a rest at the right and lower border is dropped."""
    return F.avg_pool2d(image.movedim(-1, 0)[None], shrink)[0].movedim(0, -1).contiguous()


def _boxed_camera(camera: Cameras, box: Box) -> Cameras:
    K = camera.K.clone()
    K[:, 0, 2] -= box.left
    K[:, 1, 2] -= box.top
    return Cameras(camera.world_to_cam, K, box.right - box.left, box.bottom - box.top)


def _box_around(ids: Tensor | None) -> Box | None:
    if ids is None or not bool((ids > 0).any()):
        return None
    H, W = ids.shape
    sides = []
    for length, marked in ((H, (ids > 0).any(1)), (W, (ids > 0).any(0))):
        inside = marked.nonzero()[:, 0]
        low, high = int(inside[0]) - BOX_MARGIN, int(inside[-1]) + 1 + BOX_MARGIN
        low, high = max(0, low // 4 * 4), min(length, -(-high // 4) * 4)
        sides.append((low, high))
    (top, bottom), (left, right) = sides
    box = Box(left, top, right, bottom)
    return box if box.pixels <= MOST_OF_PICTURE * H * W else None


def _shrunk_camera(camera: Cameras, shrink: int) -> Cameras:
    K = camera.K / shrink
    K[:, 2, 2] = 1.0
    return Cameras(camera.world_to_cam, K, camera.width // shrink, camera.height // shrink)


def open_footage(
    capture: Capture,
    views: Sequence[View],
    device: torch.device = torch.device("cpu"),  # noqa: B008 - immutable
) -> Footage:
    """Raises InputError: no views, or they have no cameras or no pictures."""
    if not views:
        raise InputError(f"{capture.root}: no view is left to fit to")
    lost = next((v for v in views if v.world_to_cam is None or v.K is None), None)
    if lost is not None:
        raise InputError(
            f"{capture.root}: camera {lost.camera} has no pose at frame {lost.frame}; estimate the cameras with "
            "`scene4d inspect CAPTURE --estimate-cameras --out FOLDER`"
        )
    return Footage(capture, tuple(views), device)


def scene_size(footage: Footage, points: Tensor | None = None) -> float:
    """A length in scene units to which steps are relative: the distance from the cameras to what they look at.

    The median distance of `points` [n, 3] to the cameras; without points the spread of the camera centres.
    """
    centers = (
        footage.capture.cameras(footage.views).centers
        if _one_size(footage)
        else torch.cat([footage.capture.cameras([v]).centers for v in footage.views])
    )
    if points is not None and len(points):
        picked = points[:: max(1, len(points) // 1000)]
        return float(torch.cdist(picked.cpu(), centers.to(picked)[:: max(1, len(centers) // 32)].cpu()).median())
    spread = float((centers - centers.mean(0)).norm(dim=1).max())
    if spread <= 0:
        warnings.warn("one camera that stands still: the scene's size is unknown, 1 is taken", stacklevel=2)
    return spread or 1.0


def _one_size(footage: Footage) -> bool:
    return len({(v.width, v.height) for v in footage.views}) == 1
