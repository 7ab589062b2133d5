"""Roles of a target frame's pixels: Preserve (observed and still valid), Reveal (inside the observed extent, without a
valid observation), Expand (outside of it). Inserted assets are a stratum of their own.

    valid = shows a surface, whose look was not changed
    P = valid and V >= 1,    R = not P and inside the extent,    E = not P and outside          (hard)
    p_P = valid (1 - prod_s(1 - w_s)),    p_E = (1 - p_P) S(-d / 2 px),    p_R = 1 - p_P - p_E  (soft)

V counts the views that see the surface, w_s are their weights, d is by how many pixels the point lies inside the view
that has it deepest inside. In doubt a pixel is R: a false P is a ghost, a false R is only painted again.

H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from scene4d.cues.evidence import Evidence
from scene4d.cues.geometry import dilate, edges, inverse_depth
from scene4d.cues.target import TargetFrame

PRESERVE, REVEAL, EXPAND = 0, 1, 2
NAMES = ("preserve", "reveal", "expand")
BORDER = 2.0  # pixels over which the soft border of the extent falls
EXACT = 1 << 16  # soft roles are whole multiples of 1 / EXACT: their float32 sum is 1 exactly


@dataclass(frozen=True)
class RoleOptions:
    """How roles are decided and cleaned."""

    margin: float = 0.0  # pixels by which the extent reaches beyond the images; may be negative
    hull: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None  # the extent is inside this box
    small: int = 16  # components of fewer pixels go to the majority of their neighbours
    erode: bool = True  # give up P next to other roles where depth jumps
    assets: str = "preserve"  # or "reveal": have inserted assets painted again, so that they blend in

    def __post_init__(self) -> None:
        if self.assets not in ("preserve", "reveal"):
            raise ValueError(f"assets must be preserve or reveal, got {self.assets!r}")
        if self.small < 0:
            raise ValueError(f"small must not be negative, got {self.small}")


@dataclass(frozen=True)
class Roles:
    """Who is to answer for each pixel."""

    hard: Tensor  # [H, W] uint8 PRESERVE, REVEAL or EXPAND
    soft: Tensor  # [H, W, 3] float32 of the three; the sum is 1
    asset: Tensor  # [H, W] bool: inserted


def decide_roles(frame: TargetFrame, evidence: Evidence, inside: Tensor, options: RoleOptions) -> Roles:
    """Roles of a frame; `inside` [H, W] are signed pixels inside the extent."""
    shape = frame.depth.shape
    asset = frame.flag("asset") & frame.covered
    valid = frame.covered & ~frame.flag("changed") & ~asset
    observed = valid & (evidence.count >= 1).reshape(shape)
    kept = observed
    if options.erode:
        kept = kept & ~(dilate(~observed & ~asset, 1) & edges(inverse_depth(frame.depth)))
    hard = torch.where(kept, PRESERVE, torch.where(inside > 0, REVEAL, EXPAND)).to(torch.uint8)
    if options.small > 1:
        doubtful = kept | (valid & evidence.nearly.reshape(shape))
        hard = _merged(hard, asset, doubtful, options.small)
    asset_role = PRESERVE if options.assets == "preserve" else REVEAL
    hard = torch.where(asset, asset_role, hard.int()).to(torch.uint8)
    seen = torch.where(valid, 1 - evidence.missed.reshape(shape), 0.0)
    seen = torch.where(asset, float(asset_role == PRESERVE), seen)
    out = torch.where(asset, 0.0, torch.sigmoid(-inside / BORDER))
    return Roles(hard, _exact(seen, (1 - seen) * out), asset)


def inside_extent(frame: TargetFrame, evidence: Evidence, xyz: Tensor, options: RoleOptions) -> Tensor:
    """[H, W] pixels by which the surface point of each pixel, of `xyz` [H W, 3], lies inside the observed extent."""
    inside = evidence.extent + options.margin
    if options.hull is not None:
        low, high = xyz.new_tensor(options.hull)
        outside = ((xyz < low) | (xyz > high)).any(1)
        inside = torch.where(outside, -inside.abs() - BORDER, inside)
    return inside.reshape(frame.depth.shape)


def _exact(preserve: Tensor, expand: Tensor) -> Tensor:
    first = (preserve.clamp(0, 1) * EXACT).floor()
    third = torch.minimum((expand.clamp(0, 1) * EXACT).floor(), EXACT - first)
    return torch.stack([first, EXACT - first - third, third], -1) / EXACT


def _merged(hard: Tensor, asset: Tensor, doubtful: Tensor, small: int) -> Tensor:
    """Components of fewer than `small` pixels with the role that most of the pixels around them have.

    Only pixels that a view at least nearly sees become P. Assets are neither merged nor counted.
    """
    roles = hard.cpu().numpy().copy()
    blocked, near = asset.cpu().numpy(), doubtful.cpu().numpy()
    around = np.ones((3, 3), np.uint8)
    for role in (PRESERVE, REVEAL, EXPAND):
        mask = ((roles == role) & ~blocked).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        for k in np.flatnonzero(stats[:count, cv2.CC_STAT_AREA] < small):
            if k == 0:
                continue
            x, y, w, h = stats[k, :4]
            part = np.s_[max(y - 1, 0) : y + h + 1, max(x - 1, 0) : x + w + 1]
            own = labels[part] == k
            ring = (cv2.dilate(own.astype(np.uint8), around) > 0) & ~own & ~blocked[part]
            if not ring.any():
                continue
            winner = np.bincount(roles[part][ring], minlength=3).argmax()
            change = own & (near[part] | (winner != PRESERVE))
            roles[part][change] = winner
    return torch.from_numpy(roles).to(hard.device)


class RoleFilter:
    """A median over three frames along the surface, for what stands still: P stays where it was P in one of the two
    frames before, or where neither shows the surface. It never makes P of anything else.

    A frame's pixel is looked up in each frame before by its world point; that one is no witness where it is hidden
    there, outside of the picture, or not Preserve for want of a valid surface.
    """

    def __init__(self) -> None:
        self._before: list[tuple[TargetFrame, Tensor]] = []

    def __call__(self, frame: TargetFrame, hard: Tensor, xyz: Tensor) -> Tensor:
        """The roles [H, W] of the next frame, whose surface points are `xyz` [H W, 3]."""
        still = frame.covered & ~frame.moving & ~frame.flag("asset")
        against = torch.zeros(hard.numel(), dtype=torch.int32, device=hard.device)
        for earlier, roles in self._before:
            shown, role = _look_back(earlier, roles, xyz)
            against += shown & (role != PRESERVE)
        doubted = ((against == 2).reshape(hard.shape)) & still & (hard == PRESERVE)
        self._before = [*self._before[-1:], (frame, hard)]
        return torch.where(doubted, REVEAL, hard.int()).to(torch.uint8)


def _look_back(frame: TargetFrame, roles: Tensor, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Whether a frame shows still points [n, 3], and its roles there."""
    camera = frame.camera
    pose, K = camera.world_to_cam[0].to(xyz), camera.K[0].to(xyz)
    cam = (xyz @ pose[:3, :3].T + pose[:3, 3]) @ K.T
    z = cam[:, 2]
    u, v = (cam[:, :2] / z.clamp(min=1e-6)[:, None]).unbind(1)
    inside = (z > 0) & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    column = u.clamp(0, camera.width - 1).long()
    line = v.clamp(0, camera.height - 1).long()
    place = line * camera.width + column
    there = frame.depth.reshape(-1)[place]
    still = (frame.covered & ~frame.moving & ~frame.flag("asset") & ~frame.flag("changed")).reshape(-1)[place]
    shown = inside & still & ((there - z).abs() <= SAME * z)
    return shown, roles.reshape(-1)[place]


SAME = 0.01  # relative difference of depth up to which two frames show the same surface
