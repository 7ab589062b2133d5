"""What region-wise scores are made of: a clip and its regions, a score or why there is none, the table of metrics.

T frames, H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PRESERVE, REVEAL, EXPAND, ASSET = 0, 1, 2, 3
REGIONS = {"preserve": PRESERVE, "reveal": REVEAL, "expand": EXPAND, "asset": ASSET}
Frames = Tensor  # [T, H, W, 3], uint8 or float32 in [0, 1]


@dataclass(frozen=True)
class Score:
    """A number and how many pixels, pairs or frames it is made of; or why there is none. Never both, never neither."""

    value: float | None
    count: int = 0
    skipped: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.skipped):
            raise ValueError(f"a score must be a number or skipped with a reason, got {self.value}, {self.skipped!r}")
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"value must be finite, got {self.value}")

    def as_json(self) -> dict[str, float | int | str]:
        if self.value is None:
            return {"skipped": self.skipped}
        return {"value": self.value, "count": self.count}


def measured(value: float | Tensor, count: int | Tensor) -> Score:
    return Score(float(value), int(count))


def skipped(reason: str) -> Score:
    return Score(None, skipped=reason)


@dataclass(frozen=True)
class Metric:
    """How a number is to be read."""

    better: int  # +1: more is better, -1: less is better, 0: 1 is best
    step: float  # a difference that people notice: makes metrics comparable
    unit: str
    meaning: str

    def goodness(self, value: float) -> float:
        """In steps, more is better."""
        return self.better * value / self.step if self.better else -abs(value - 1.0) / self.step


_PSNR, _SSIM = Metric(1, 3.0, "dB", "PSNR of all pixels together"), Metric(1, 0.05, "", "structural similarity")
_LPIPS = Metric(-1, 0.05, "", "perceptual distance")
_STABLE = Metric(-1, 0.02, "of 1", "change along the motion of the target's surfaces")
_REVISIT = Metric(-1, 0.02, "of 1", "difference where the camera is back at a place it has been")
_GHOST = Metric(-1, 0.1, "share", "nearer to what stood there before the edit than to the truth")
_SEAM = Metric(0, 0.3, "ratio", "jump across the border over that of the truth")
METRICS: dict[str, Metric] = {
    **{f"{region}.psnr": _PSNR for region in REGIONS},
    **{f"{region}.ssim": _SSIM for region in REGIONS},
    **{f"{region}.lpips": _LPIPS for region in REGIONS},
    "preserve.drift": Metric(-1, 0.01, "per 10 frames", "growth of the mean error over time"),
    "preserve.flicker": _STABLE,
    "preserve.ghost": _GHOST,
    "preserve.revisit": _REVISIT,
    "reveal.stability": _STABLE,
    "reveal.ghost": _GHOST,
    "reveal.seam": _SEAM,
    "reveal.revisit": _REVISIT,
    "expand.stability": _STABLE,
    "expand.seam": _SEAM,
    "expand.revisit": _REVISIT,
    "asset.stability": _STABLE,
    "control.rotation": Metric(-1, 0.5, "degrees", "turn of the camera away from where it was asked to be"),
    "control.translation": Metric(-1, 0.02, "of depth", "way of the camera from where it was asked to be"),
    "control.object": Metric(-1, 2.0, "pixels", "way of edited things from where they were asked to be"),
    "control.found": Metric(1, 0.1, "share", "edited things that were found at all"),
    "whole.psnr": _PSNR,
    "whole.ssim": _SSIM,
    "whole.lpips": _LPIPS,
}
# What is measured of the truth itself, beside its metric: interpolation and light change along the motion too.
FLOORS = ("preserve.flicker", "reveal.stability", "expand.stability", "asset.stability")


@dataclass(frozen=True, eq=False)
class Revisit:
    """Two frames that look at the same place. The flow goes from pixel centres of `later` to pixels of `earlier`."""

    earlier: int
    later: int
    flow: Tensor  # [H, W, 2] pixels
    visible: Tensor  # [H, W] bool: the surface is seen in both


@dataclass(frozen=True, eq=False)
class RegionClip:
    """A finished video, what it should have been, and whose job each pixel was. Only `roles` is always there."""

    output: Frames
    reference: Frames | None  # the truth, else the cue
    roles: Tensor  # [T, H, W] uint8, values of REGIONS
    scored: Tensor  # [T, H, W] bool, False in the ignore band
    exact: bool = True  # the reference is the truth; else it is a cue, good only where `trusted`
    trusted: Tensor | None = None  # [T, H, W] bool: the cue's confidence is at least 0.9
    ids: Tensor | None = None  # [T, H, W] integer, of the edited scene
    depth: Tensor | None = None  # [T, H, W] float32 z, 0 = nothing
    flow: Tensor | None = None  # [T, H, W, 2] from pixel centres of frame t to frame t - 1; frame 0 is not read
    visible: Tensor | None = None  # [T, H, W] bool: the surface is seen in frame t - 1
    stale: Frames | None = None  # the scene without the edit from the same cameras
    revisits: tuple[Revisit, ...] = ()
    K: Tensor | None = None  # [T, 3, 3] pixels
    edited_ids: tuple[int, ...] = ()  # instances that the edit placed: their positions are checked

    def __post_init__(self) -> None:
        size = tuple(self.roles.shape)
        if len(size) != 3 or min(size) < 1:
            raise ValueError(f"roles must have shape [T, H, W], got {list(size)}")
        for name in ("output", "reference", "stale"):
            frames = getattr(self, name)
            if frames is not None and tuple(frames.shape) != (*size, 3):
                raise ValueError(f"{name} must have shape {[*size, 3]}, got {list(frames.shape)}")
        for name in ("scored", "trusted", "visible"):
            mask = getattr(self, name)
            if mask is not None and (tuple(mask.shape) != size or mask.dtype != torch.bool):
                raise ValueError(f"{name} must be bool {list(size)}, got {mask.dtype} {list(mask.shape)}")
        for name, tail in (("ids", ()), ("depth", ()), ("flow", (2,))):
            found = getattr(self, name)
            if found is not None and tuple(found.shape) != (*size, *tail):
                raise ValueError(f"{name} must have shape {[*size, *tail]}, got {list(found.shape)}")
        if int(self.roles.max()) > ASSET:
            raise ValueError(f"roles must be at most {ASSET}, got {int(self.roles.max())}")

    def region(self, name: str) -> Tensor:
        """bool [T, H, W]: the scored pixels of a region."""
        return (self.roles == REGIONS[name]) & self.scored


def unit(frame: Tensor) -> Tensor:
    """float32 in [0, 1] of a uint8 or float frame."""
    return frame.float() / 255.0 if frame.dtype == torch.uint8 else frame.float()
