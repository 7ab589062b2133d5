"""One rendered view against its picture: the whole frame and the region in which something moves.

T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.captures import Capture, View
from scene4d.channels import render_channels
from scene4d.metrics.images import SSIM_WINDOW, masked_mean, psnr, ssim
from scene4d.metrics.moving import moving_mask, temporal_median
from scene4d.metrics.perceptual import MIN_SIDE, LpipsWeights, lpips
from scene4d.scene import Scene4D

if TYPE_CHECKING:
    from scene4d.edits import EditedScene

Item = TypeVar("Item")
MEDIAN_FRAMES = 64  # of one camera that the temporal median is taken over at most: they are held in 8 bits
MIN_MEDIAN_FRAMES = 3  # of one or two frames, the median tells nothing about what moves


@dataclass(frozen=True)
class EvaluationOptions:
    """How views are shown and what is measured."""

    background: Tensor | None = None  # [3] behind everything; black if not given
    exposures: Mapping[str, Tensor] = field(default_factory=dict)  # by camera, [3, 4]; identity for those without one
    lpips: LpipsWeights | None = None
    lpips_reason: str = "not asked for"  # why there is none
    truth: bool = True  # compare with a world's truth where it lies beside the capture
    truth_views: int = 24  # evenly chosen views whose depth and flow are compared at most: tracing them is slow
    backend: str = "auto"


@dataclass(frozen=True)
class RegionScore:
    """One region of one view. NaN: not measured, or the region is empty."""

    pixels: int
    squared_error: float  # mean over channels, summed over the pixels
    psnr: float
    ssim: float
    lpips: float


def render_view(
    scene: Scene4D | EditedScene,
    capture: Capture,
    view: View,
    options: EvaluationOptions,
    channels: Collection[str] = ("rgb",),
) -> dict[str, Tensor]:
    """Channels [H, W, ...] of a view (`scene4d.channels`); rgb as its camera shows it, in [0, 1].

    Raises:
        InputError: the view has no camera.
    """
    cameras = cameras_of(capture, [view], scene)
    background = None if options.background is None else options.background.to(like_of(scene))
    found = render_channels(scene, cameras, view.time, tuple(channels), background=background, backend=options.backend)
    shown = {name: value[0] for name, value in found.items()}
    if "rgb" in shown:
        shown["rgb"] = exposed(shown["rgb"], options.exposures.get(view.camera)).clamp(0.0, 1.0)
    return shown


def cameras_of(capture: Capture, views: Sequence[View], scene: Scene4D | EditedScene) -> Cameras:
    """The cameras of views of one size, where the scene is."""
    like = like_of(scene)
    cameras, device = capture.cameras(views, like.dtype), like.device
    return Cameras(cameras.world_to_cam.to(device), cameras.K.to(device), cameras.width, cameras.height)


def like_of(scene: Scene4D | EditedScene) -> Tensor:
    """A tensor of the scene's dtype and device."""
    return scene.means if isinstance(scene, Scene4D) else scene.source.means


def exposed(rgb: Tensor, exposure: Tensor | None) -> Tensor:
    """What a camera of this exposure [3, 4] shows of rgb [..., 3]; None is the identity."""
    if exposure is None:
        return rgb
    exposure = exposure.to(rgb)
    return rgb @ exposure[:, :3].T + exposure[:, 3]


def score_region(image: Tensor, truth: Tensor, mask: Tensor | None, options: EvaluationOptions) -> RegionScore:
    """Scores of an image [H, W, 3] in a mask [H, W] bool (None: everywhere)."""
    pixels = image[..., 0].numel() if mask is None else int(mask.sum())
    if not pixels:
        return RegionScore(0, 0.0, torch.nan, torch.nan, torch.nan)
    side = min(image.shape[:2])
    error = float(masked_mean((image - truth).square().mean(-1).double(), mask)) * pixels
    similarity = float(ssim(image, truth, mask)) if side >= SSIM_WINDOW else torch.nan
    distance = torch.nan
    if options.lpips is not None and side >= MIN_SIDE:
        distance = float(lpips(image, truth, options.lpips, mask))
    return RegionScore(pixels, error, float(psnr(image, truth, mask)), similarity, distance)


def camera_median(capture: Capture, camera: str, size: tuple[int, int]) -> Tensor | None:
    """The temporal median [H, W, 3] of a camera that stands still; None where it moves or has too few frames.

    Of more than 64 frames, 64 that are evenly spaced are taken, so that a long capture is never held.
    """
    views = [v for v in capture.views if v.camera == camera and (v.width, v.height) == size]
    if len(views) < MIN_MEDIAN_FRAMES or not capture.is_static(camera):
        return None
    frames = torch.stack([capture.image_u8(view) for view in spread(views, MEDIAN_FRAMES)])
    return torch.cat([temporal_median(rows.float() / 255.0) for rows in frames.split(64, dim=1)])


def moving_region(capture: Capture, view: View, median: Tensor | None) -> Tensor | str:
    """Bool [H, W], where something moves: away from the median, else the capture's mask, else why there is none."""
    if median is not None:
        return moving_mask(capture.image(view)[None], median)[0]
    mask = capture.mask(view)
    if mask is not None:
        return mask
    if not capture.is_static(view.camera):
        return "the camera moves, and the capture has no mask"
    return f"the camera has fewer than {MIN_MEDIAN_FRAMES} frames, and the capture has no mask"


def spread(items: Iterable[Item], most: int) -> list[Item]:
    """At most `most` items, evenly chosen."""
    found = list(items)
    picked = np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))
    return [found[i] for i in picked]
