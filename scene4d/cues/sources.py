"""What was observed: pictures with cameras, times, depth and instances, and the maps that visibility tests look up.

S source views, H W pixels of the largest of them (smaller ones fill the upper left corner).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from renderers import Cameras
from scene4d.cues.geometry import edges, flying, inverse_depth, mended, nearness, slopes

EDGE_REACH = 4  # pixels from a jump of depth at which a source pixel no longer counts as near one
EDGE_MASK, BENT_MARK, INSTANCE_SHIFT = 0xFF, 0x100, 9  # parts of a pixel's marks
BLOCK = 8  # views whose maps are made together


@dataclass(frozen=True)
class VisibilityOptions:
    """How closely a surface point must agree with what a source view shows there."""

    tolerance: float = 0.02  # tau_0: relative difference of depth
    slope_factor: float = 0.75  # kappa: share of the local range of depth that is added to it
    drop_flying: bool = True  # distrust source pixels at a jump of depth whose depth is of neither side
    mend: bool = True  # first give such pixels, also the target's, the depth of a neighbour of their own instance

    def __post_init__(self) -> None:
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must be between 0 and 1, got {self.tolerance}")
        if not 0 <= self.slope_factor <= 4:
            raise ValueError(f"slope_factor must be from 0 to 4, got {self.slope_factor}")


@dataclass(frozen=True, eq=False)
class SourceViews:
    """Observations. Raises ValueError on shapes that do not fit.

    Depth may be measured, given by the capture, or rendered from the fitted scene; instance 0 is the background, whose
    surface does not move.
    """

    images: Tensor  # [S, H, W, 3] uint8 sRGB
    depth: Tensor  # [S, H, W] float32 z, 0 = none
    instances: Tensor  # [S, H, W] int16
    world_to_cam: Tensor  # [S, 4, 4] float32
    K: Tensor  # [S, 3, 3] float32
    times: Tensor  # [S] float64 seconds of the scene
    sizes: Tensor | None = None  # [S, 2] int64 width and height; None: all are W x H
    valid: Tensor | None = None  # [S, H, W] bool; False = not to be used
    gains: Tensor | None = None  # [S, 3] a picture shows gain * colour; None = 1
    names: tuple[tuple[str, int], ...] = ()  # [S] camera and frame, for reports

    def __post_init__(self) -> None:
        S, H, W = self.depth.shape if self.depth.ndim == 3 else (-1, -1, -1)
        shapes = {
            "images": (S, H, W, 3),
            "depth": (S, H, W),
            "instances": (S, H, W),
            "world_to_cam": (S, 4, 4),
            "K": (S, 3, 3),
            "times": (S,),
            "sizes": (S, 2),
            "valid": (S, H, W),
            "gains": (S, 3),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
        if S < 1:
            raise ValueError(f"depth must hold at least one view, got shape {list(self.depth.shape)}")
        if self.images.dtype != torch.uint8:
            raise ValueError(f"images must be uint8, got {self.images.dtype}")
        if self.names and len(self.names) != S:
            raise ValueError(f"names must be {S}, one a view, got {len(self.names)}")

    def __len__(self) -> int:
        return self.depth.shape[0]

    def subset(self, keep: Tensor) -> SourceViews:
        """The views with the indices `keep` [n]."""
        rows = keep.tolist()
        picked = {
            name: None if (x := getattr(self, name)) is None else x[keep.to(x.device)]
            for name in ("images", "depth", "instances", "world_to_cam", "K", "times", "sizes", "valid", "gains")
        }
        return replace(self, names=tuple(self.names[i] for i in rows) if self.names else (), **picked)

    def camera(self, s: int) -> Cameras:
        """The camera of view s alone."""
        width, height = self.size(s)
        return Cameras(self.world_to_cam[s : s + 1], self.K[s : s + 1], width, height)

    def size(self, s: int) -> tuple[int, int]:
        """Width and height of view s."""
        if self.sizes is None:
            return self.depth.shape[2], self.depth.shape[1]
        width, height = self.sizes[s].tolist()
        return width, height

    @property
    def centers(self) -> Tensor:
        """Camera centres in the world, [S, 3]."""
        R = self.world_to_cam[:, :3, :3]
        return -(R.mT @ self.world_to_cam[:, :3, 3:])[..., 0]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Source views and the maps that are looked up for every pixel of every target, flat over views and pixels."""

    views: SourceViews
    options: VisibilityOptions
    projections: Tensor  # [S, 3, 4] K world_to_cam: pixel coordinates times depth
    centers: Tensor  # [S, 3]
    focals: Tensor  # [S] geometric mean of both axes
    sizes: Tensor  # [S, 2] float width and height
    times: Tensor  # [S] float32
    inverse: Tensor  # [S H W] 1/z
    allowed: Tensor  # [S H W] relative difference of depth that is allowed: negative where the pixel is not trusted
    marks: Tensor  # [S H W] int32: instance, whether the pixel lies at an edge, how near it is to one, see `_marks`
    gains: Tensor = field(default_factory=lambda: torch.ones(0, 3))  # [S, 3]

    def __len__(self) -> int:
        return len(self.views)


def prepare(views: SourceViews, options: VisibilityOptions | None = None) -> Prepared:
    """The look-up maps of source views: 12 bytes a pixel besides the views themselves."""
    options = options or VisibilityOptions()
    S, H, W = views.depth.shape
    device = views.depth.device
    sizes = torch.tensor([views.size(s) for s in range(S)], dtype=torch.float32, device=device)
    inverse = torch.empty(S, H, W, device=device)
    allowed = torch.empty(S, H, W, device=device)
    marks = torch.empty(S, H, W, dtype=torch.int32, device=device)
    for first in range(0, S, BLOCK):
        part = slice(first, first + BLOCK)
        depth = views.depth[part].float()
        if views.valid is not None:
            depth = depth.masked_fill(~views.valid[part], 0.0)
        if options.mend:
            depth = torch.stack([mended(d, i) for d, i in zip(depth, views.instances[part], strict=True)])
        inverse[part] = inverse_depth(depth)
        bent = edges(inverse[part])
        tolerance = options.tolerance + options.slope_factor * slopes(depth, bent)
        untrusted = flying(depth, bent) if options.drop_flying else depth <= 0
        allowed[part] = torch.where(untrusted, -tolerance, tolerance)
        marks[part] = _marks(views.instances[part], bent)
    gains = torch.ones(S, 3, device=device) if views.gains is None else views.gains.to(device).float()
    return Prepared(
        views=views,
        options=options,
        projections=(views.K.double() @ views.world_to_cam[:, :3].double()).float(),
        centers=views.centers.float(),
        focals=(views.K[:, 0, 0] * views.K[:, 1, 1]).sqrt().float(),
        sizes=sizes,
        times=views.times.float().to(device),
        inverse=inverse.reshape(-1),
        allowed=allowed.reshape(-1),
        marks=marks.reshape(-1),
        gains=gains,
    )


def _marks(instances: Tensor, bent: Tensor) -> Tensor:
    """int32: EDGE_MASK at an edge to 0 at EDGE_REACH pixels from it, BENT_MARK at an edge (where 1/z is not
    interpolated), and the instance above."""
    edge = (nearness(bent, EDGE_REACH) * EDGE_MASK).int()
    return (instances.int() << INSTANCE_SHIFT) | (bent.int() * BENT_MARK) | edge
