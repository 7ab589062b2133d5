"""Where something moves in the pictures of a camera that stands still.

T frames, H W pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.1  # of a channel's range
WIDENING = 5  # pixels, the side of the square that the region is dilated with
CHUNK = 1 << 24  # values that are sorted at a time


def temporal_median(frames: Tensor) -> Tensor:
    """The median of each pixel and channel over time, [T, H, W, 3] -> [H, W, 3]; of an even T the middle two's mean."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) == 0:
        raise ValueError(f"frames must have shape [T, H, W, 3] with T >= 1, got {list(frames.shape)}")
    T, _, width, _ = frames.shape
    rows = max(1, CHUNK // (T * width * 3))
    parts = []
    for part in frames.split(rows, dim=1):
        ordered = part.sort(0).values
        parts.append((ordered[(T - 1) // 2] + ordered[T // 2]) / 2)
    return torch.cat(parts)


def moving_mask(frames: Tensor, median: Tensor | None = None) -> Tensor:
    """Bool [T, H, W]: where a frame is more than 0.1 from the temporal median in any channel, dilated by 5x5 pixels.

    `median` is that of all frames where `frames` are only some of them. Raises ValueError.
    """
    median = temporal_median(frames) if median is None else median
    if median.shape != frames.shape[1:]:
        raise ValueError(f"median must have shape {list(frames.shape[1:])}, got {list(median.shape)}")
    masks = [(frame - median).abs().amax(-1) > THRESHOLD for frame in frames]
    return dilate(torch.stack(masks), WIDENING)


def dilate(mask: Tensor, side: int) -> Tensor:
    """Masks [T, H, W] widened by a square of an odd side."""
    if side < 1 or side % 2 == 0:
        raise ValueError(f"side must be odd and at least 1, got {side}")
    return F.max_pool2d(mask[:, None].float(), side, stride=1, padding=side // 2)[:, 0] > 0
