"""A frame in the making, and what another frame shows of its surfaces.

A pixel's surface point is carried by the motion of its surface to the other frame's time and projected into it. The
other frame shows it where its own depth agrees and its object is the same; the colour is the bilinear mean of those
pixels around the place that may be used.

H W pixels, n pixels in a list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from editors.video import ClipFrame
from renderers import Cameras
from scene4d.channels import unproject
from scene4d.cues.geometry import edges, inverse_depth, slopes

SAME = 0.02  # relative difference of depth up to which two frames show one surface
SLOPE = 0.75  # share of the local range of depth that is added to it
GUESSED = 0.2  # the same where either depth is a guess
LEAST = 0.25  # of a bilinear sample's weight that must be of usable pixels


@dataclass(eq=False)
class Sheet:
    """One frame: its colours, where they come from and what is still to be painted. Changes while it is worked on."""

    camera: Cameras
    time: float
    image: Tensor  # [H, W, 3]
    origin: Tensor  # [H, W] uint8
    hole: Tensor  # [H, W] bool: still to be painted
    trust: Tensor  # [H, W] confidence of what was observed, 0 elsewhere
    painted: Tensor  # [H, W] bool: painted here, not taken from another frame
    depth: Tensor  # [H, W] with guesses where there is no surface
    allowed: Tensor  # [H, W] relative difference of depth within which a point counts as seen
    objects: Tensor  # [H, W]
    guessed: Tensor  # [H, W] bool
    frame: ClipFrame | None  # None once it is only kept to be looked up

    def kept(self) -> Sheet:
        """Without what only the frame itself needs."""
        return Sheet(**{**vars(self), "frame": None})


def sheet_of(frame: ClipFrame) -> Sheet:
    """The frame's geometry with nothing painted: all of it is a hole."""
    cue = frame.cue
    shape = cue.roles.shape
    depth, guessed = whole_depth(cue.depth * (cue.alpha >= 0.5))
    bent = edges(inverse_depth(depth))
    allowed = torch.where(guessed, GUESSED, SAME + SLOPE * slopes(depth, bent))
    empty = torch.zeros(shape, dtype=torch.bool)
    return Sheet(
        camera=cue.camera,
        time=cue.time,
        image=torch.zeros(*shape, 3),
        origin=torch.zeros(shape, dtype=torch.uint8),
        hole=~empty,
        trust=torch.zeros(shape),
        painted=empty,
        depth=depth,
        allowed=allowed,
        objects=frame.objects,
        guessed=guessed,
        frame=frame,
    )


def whole_depth(depth: Tensor) -> tuple[Tensor, Tensor]:
    """Depth [H, W] whose holes continue what is around them, smooth in 1/z, and where they are. All holes: 1."""
    guessed = depth <= 0
    if not bool(guessed.any()):
        return depth, guessed
    known = (~guessed).float()
    if not bool(known.any()):
        return torch.ones_like(depth), guessed
    around = spread(inverse_depth(depth)[..., None], known)[..., 0]
    return torch.where(guessed, 1.0 / around.clamp(min=1e-6), depth), guessed


def spread(values: Tensor, weight: Tensor) -> Tensor:
    """Values [H, W, C] known with a weight [H, W], continued smoothly to where it is 0: push-pull down to one pixel.

    With no weight at all the result is 0.
    """
    stack = [((values * weight[..., None]).permute(2, 0, 1)[None], weight[None, None])]
    while max(stack[-1][1].shape[2:]) > 1:
        halves = [F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in stack[-1]]
        stack.append((halves[0], halves[1]))
    total, share = stack[-1]
    found = total / share.clamp(min=1e-12)
    for total, share in reversed(stack[:-1]):
        up = F.interpolate(found, share.shape[2:], mode="bilinear", align_corners=False)
        sure = share.clamp(max=1.0)
        found = total / share.clamp(min=1e-12) * sure + up * (1 - sure)
    return found[0].permute(1, 2, 0)


def points_of(sheet: Sheet) -> Tensor:
    """World points [H W, 3] at the pixels' centres."""
    c = sheet.camera
    like = Cameras(c.world_to_cam.double(), c.K.double(), c.width, c.height)
    return unproject(sheet.depth[None].double(), like)[0].reshape(-1, 3).float()


def seen_in(sheet: Sheet, xyz: Tensor, pixels: Tensor, other: Sheet, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Colours [n, 3] that another frame shows at `pixels` [n] of `sheet`, and whether it does [n].

    Args:
        xyz: [H W, 3] the points of `sheet`.
        usable: [H, W] bool pixels of `other` that may be used.
    """
    nothing = torch.zeros(len(pixels), 3), torch.zeros(len(pixels), dtype=torch.bool)
    if len(pixels) == 0 or not bool(usable.any()):
        return nothing
    points = xyz[pixels]
    if sheet.frame is not None and sheet.frame.carry is not None:
        points = sheet.frame.carry(pixels, points, other.time)
    u, v, z = projected(other.camera, points)
    height, width = other.depth.shape
    inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    nearest = v.clamp(0, height - 1).long() * width + u.clamp(0, width - 1).long()
    there = other.depth.reshape(-1)[nearest]
    allowed = other.allowed.reshape(-1)[nearest]
    allowed = torch.where(sheet.guessed.reshape(-1)[pixels], GUESSED, allowed)
    same = other.objects.reshape(-1)[nearest] == sheet.objects.reshape(-1)[pixels]
    seen = inside & same & ((there - z).abs() <= allowed * there)
    if not bool(seen.any()):
        return nothing
    planes = torch.cat([other.image * usable[..., None], usable[..., None].float()], -1)
    grid = torch.stack([2 * u / width - 1, 2 * v / height - 1], -1)[None, None]
    found = F.grid_sample(planes.permute(2, 0, 1)[None], grid, "bilinear", "zeros", align_corners=False)[0, :, 0].T
    seen &= (found[:, 3] >= LEAST) & usable.reshape(-1)[nearest]
    return found[:, :3] / found[:, 3:].clamp(min=1e-6), seen


def projected(camera: Cameras, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel coordinates u, v [n] and depth z [n] of world points [n, 3]."""
    pose, K = camera.world_to_cam[0].double(), camera.K[0].double()
    cam = (points.double() @ pose[:3, :3].T + pose[:3, 3]) @ K.T
    z = cam[:, 2]
    places = cam[:, :2] / z.clamp(min=1e-9)[:, None]
    return places[:, 0].float(), places[:, 1].float(), z.float()
