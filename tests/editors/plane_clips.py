"""Clips whose every pixel is known in closed form: a painted wall at z = 2 before a camera that shifts along x.

A pixel (u, v) of a camera at x shows the wall's point (x + 2 (u - W / 2) / F, 2 (v - H / 2) / F).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from editors.video import Carry, ClipFrame, VideoEditRequest
from renderers import Cameras
from scene4d.cues import EXPAND, PRESERVE, REVEAL, CueFrame

W, H, F, Z = 40, 30, 40.0, 2.0
Where = Callable[[Tensor, Tensor], Tensor]  # wall coordinates X, Y [H, W] -> bool [H, W]


def camera_at(x: float) -> Cameras:
    pose = torch.eye(4, dtype=torch.float64)
    pose[0, 3] = -x
    K = torch.tensor([[F, 0, W / 2], [0, F, H / 2], [0, 0, 1.0]], dtype=torch.float64)
    return Cameras(pose[None], K[None], W, H)


def wall_points(x: float) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    return x + Z * (columns - W / 2) / F, Z * (rows - H / 2) / F


def wall_colors(X: Tensor, Y: Tensor) -> Tensor:
    """[H, W, 3] in [0.1, 0.9], smooth over several pixels."""
    return 0.5 + 0.4 * torch.stack([(4 * X).sin(), (3 * X + 4 * Y).cos(), (5 * Y - X).sin()], -1)


def no_pixel(X: Tensor, Y: Tensor) -> Tensor:
    return torch.zeros_like(X, dtype=torch.bool)


def wall_frame(
    x: float,
    time: float,
    reveal: Where = no_pixel,
    expand: Where = no_pixel,
    *,
    confidence: float = 0.9,
    rendered: Tensor | None = None,  # [H, W, 3]
    carry: Carry | None = None,
    objects: Tensor | None = None,  # [H, W]
) -> ClipFrame:
    X, Y = wall_points(x)
    roles = torch.where(expand(X, Y), EXPAND, torch.where(reveal(X, Y), REVEAL, PRESERVE)).to(torch.uint8)
    observed = roles == PRESERVE
    depth = torch.full((H, W), Z)
    cue = CueFrame(
        time=time,
        camera=camera_at(x),
        image=torch.where(observed[..., None], wall_colors(X, Y), 0.5),
        observed=observed,
        roles=roles,
        soft_roles=torch.nn.functional.one_hot(roles.long(), 3).float(),
        asset=torch.zeros(H, W, dtype=torch.bool),
        confidence=confidence * observed,
        raw_confidence=confidence * observed,
        provenance=torch.where(observed, 0, -1).int(),
        votes=observed.int(),
        depth=depth,
        inverse_depth=1 / depth,
        alpha=torch.ones(H, W),
        moving=torch.zeros(H, W, dtype=torch.bool),
        rendered=rendered,
    )
    return ClipFrame(cue, torch.zeros(H, W, dtype=torch.int32) if objects is None else objects, carry)


def clip_of(frames: Sequence[ClipFrame] | Iterator[ClipFrame], count: int | None = None) -> VideoEditRequest:
    return VideoEditRequest(frames, count if count is not None else len(list(frames)), 10.0)
