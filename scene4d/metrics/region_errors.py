"""Errors of regions of a clip against a reference: PSNR, SSIM, LPIPS, drift, ghosts.

What lies outside a region is filled with the reference before SSIM and LPIPS are taken, so that only errors inside it
count; both are taken on the box around the region, with a margin.

T frames, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from scene4d.metrics.images import SSIM_WINDOW, ssim_map
from scene4d.metrics.perceptual import MIN_SIDE, LpipsWeights, lpips
from scene4d.metrics.region_types import Frames, Score, measured, skipped, unit

MAX_PSNR = 100.0  # dB: equal pictures have no finite PSNR, and files of 8 bits no error of less than 1e-5
GHOST_MARGIN = 0.05  # mean over channels: what is nearer to the old picture by less is not called a ghost
DRIFT_FRAMES = 3  # below, a slope says nothing
LPIPS_SIDE = 64  # pixels of a box at least, so that it is not mostly padding
MARGIN = SSIM_WINDOW // 2 + 1
EMPTY = "no pixel of the region"


def pooled_psnr(output: Frames, reference: Frames, mask: Tensor) -> Score:
    """PSNR of the mean squared error over all pixels of the mask [T, H, W] in all frames, at most 100 dB."""
    total, count = 0.0, 0
    for t in _frames_with(mask):
        error = (unit(output[t]) - unit(reference[t]))[mask[t]]
        total += float(error.double().square().mean(-1).sum())
        count += len(error)
    if not count:
        return skipped(EMPTY)
    return measured(min(MAX_PSNR, -10.0 * math.log10(max(total / count, 1e-30))), count)


def region_ssim(output: Frames, reference: Frames, mask: Tensor) -> Score:
    """Mean SSIM over the pixels of the mask, each with the window around it (zeros beyond the picture)."""

    def total(image: Tensor, truth: Tensor, inside: Tensor) -> float:
        return float(ssim_map(image, truth, "zeros").mean(-1)[inside].double().sum())

    return _pooled(output, reference, mask, 1, total)


def region_lpips(output: Frames, reference: Frames, mask: Tensor, weights: LpipsWeights) -> Score:
    """Mean LPIPS over the pixels of the mask."""
    if min(mask.shape[-2:]) < MIN_SIDE:
        return skipped(f"the pictures are smaller than {MIN_SIDE} pixels")

    @torch.no_grad()
    def total(image: Tensor, truth: Tensor, inside: Tensor) -> float:
        return float(lpips(image, truth, weights, inside)) * int(inside.sum())

    return _pooled(output, reference, mask, LPIPS_SIDE, total)


def drift(output: Frames, reference: Frames, mask: Tensor) -> Score:
    """Slope of the mean absolute error over time, per 10 frames: least squares over the frames that have the region."""
    frames, errors = [], []
    for t in _frames_with(mask):
        frames.append(float(t))
        errors.append(float((unit(output[t]) - unit(reference[t])).abs().mean(-1)[mask[t]].double().mean()))
    if len(frames) < DRIFT_FRAMES:
        return skipped(f"{len(frames)} frames have the region, {DRIFT_FRAMES} are needed" if frames else EMPTY)
    time, error = torch.tensor(frames, dtype=torch.float64), torch.tensor(errors, dtype=torch.float64)
    time = time - time.mean()
    return measured(10.0 * (time * error).sum() / time.square().sum(), len(frames))


def ghost(output: Frames, truth: Frames, stale: Frames, mask: Tensor) -> Score:
    """Share of pixels that are nearer to the stale picture than to the truth by more than 0.05 (mean over channels).

    Only pixels where the two differ by more than that are asked: by the triangle inequality no other can be a ghost.
    """
    ghosts, asked = 0, 0
    for t in _frames_with(mask):
        image, real, old = (unit(frames[t])[mask[t]] for frames in (output, truth, stale))
        tellable = (real - old).abs().mean(-1) > GHOST_MARGIN
        nearer = (image - real).abs().mean(-1) - (image - old).abs().mean(-1) > GHOST_MARGIN
        ghosts, asked = ghosts + int((nearer & tellable).sum()), asked + int(tellable.sum())
    if not mask.any():
        return skipped(EMPTY)
    if not asked:
        return skipped("nothing that was there before differs from the truth in the region")
    return measured(ghosts / asked, asked)


def _frames_with(mask: Tensor) -> Iterator[int]:
    yield from mask.any(-1).any(-1).nonzero()[:, 0].tolist()


def _pooled(
    output: Frames, reference: Frames, mask: Tensor, side: int, total: Callable[[Tensor, Tensor, Tensor], float]
) -> Score:
    """The mean over all pixels of the mask of something that is summed over one filled and cropped picture."""
    value, count = 0.0, 0
    for t in _frames_with(mask):
        rows, columns = _box(mask[t], side)
        truth, inside = unit(reference[t])[rows, columns], mask[t][rows, columns]
        image = torch.where(inside[..., None], unit(output[t])[rows, columns], truth)
        value += total(image, truth, inside)
        count += int(inside.sum())
    return measured(value / count, count) if count else skipped(EMPTY)


def _box(mask: Tensor, side: int) -> tuple[slice, slice]:
    """Rows and columns around the mask [H, W], with a margin and of at least `side` pixels where there are as many."""
    spans = []
    for axis in (0, 1):
        hit = mask.any(1 - axis).nonzero()[:, 0]
        low, high = int(hit[0]) - MARGIN, int(hit[-1]) + 1 + MARGIN
        missing = max(0, side - (high - low))
        low, high = low - missing // 2, high + missing - missing // 2
        size = mask.shape[axis]
        low, high = (max(0, min(low, size - side)), min(size, max(high, side)))
        spans.append(slice(low, high))
    return spans[0], spans[1]
