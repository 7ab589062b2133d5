"""Which source views see which surface points, and how well: one look-up a pair.

    u = proj(K_s, T_s X_s),  z its depth,  D its depth in the source view (1/D bilinear off edges, nearest on edges)
    r = |z - D| / D
    visible = u in the image, z > near, r <= tolerance + slope factor * slope, same instance, pixel not flying

    weight = visible exp(-(r / allowed)^2) max(cos, 0)^8 min(1, resolution) exp(-4 edge) exp(-gap / T if deforming)

cos is that of the angle between the two lines of sight, on the surface; resolution is source pixels a target pixel;
edge is 1 at a jump of the source's depth and 0 at a few pixels from it; gap is the time between the source picture and
the state that is shown.

V views, n points. Pixels are (right, down) with centres at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.cues.sources import Prepared

NEAR = 1e-3  # scene units: nothing nearer to a camera is seen
ANGLE_POWER = 8  # of the cosine: a quarter of the weight at 33 degrees
EDGE_FALLOFF = 4.0
LEAST_WEIGHT = 1e-6  # of what is visible: the only view of a pixel is used however poor it is
HIDING = 0.25  # share of the surrounding pixels that may be of something nearer
DOUBT = 2.0  # times the allowed difference: beyond it a point is not even nearly visible
BEHIND = -1e6  # pixels: signed distance to the border of the image for what is behind the camera


@dataclass(frozen=True)
class Points:
    """Surface points as the source views are asked for them."""

    xyz: Tensor  # [V or 1, 3, n] where each view has to look
    eyes: Tensor  # [V or 1, 3, n or 1] the target's camera centre, carried along with the surface
    instances: Tensor  # [n] int16
    times: Tensor  # [n] seconds of the source at which the surface was in the state that is shown
    fading: Tensor  # [n] 1 / seconds: how quickly other times lose weight; 0 for what is rigid
    footprints: Tensor  # [n] size of a target pixel on the surface, as a share of the distance to the eye

    def part(self, chosen: slice | Tensor) -> Points:
        """The points `chosen`, for all views."""
        eyes = self.eyes if self.eyes.shape[-1] == 1 else self.eyes[..., chosen]
        return Points(
            self.xyz[..., chosen],
            eyes,
            self.instances[chosen],
            self.times[chosen],
            self.fading[chosen],
            self.footprints[chosen],
        )

    def of_views(self, rows: Tensor) -> Points:
        """For the views with the indices `rows` among all for which the points were carried along."""
        xyz = self.xyz if self.xyz.shape[0] == 1 else self.xyz[rows]
        eyes = self.eyes if self.eyes.shape[0] == 1 else self.eyes[rows]
        return Points(xyz, eyes, self.instances, self.times, self.fading, self.footprints)


@dataclass(frozen=True)
class Pairs:
    """What V views tell about n points."""

    u: Tensor  # [V, n] pixels
    v: Tensor  # [V, n]
    visible: Tensor  # [V, n] bool
    nearly: Tensor  # [V, n] bool: visible, or would be with twice the tolerance and flying pixels taken as they are
    extent: Tensor  # [V, n] pixels to the border of the image, negative outside
    weight: Tensor  # [V, n] 0 to 1
    share: Tensor  # [V, n] r as a share of what is allowed
    cosine: Tensor  # [V, n]
    resolution: Tensor  # [V, n] source pixels a target pixel
    edge: Tensor  # [V, n] 0 to 1
    gap: Tensor  # [V, n] seconds
    cycle: Tensor  # [V, n] target pixels between a pixel and where its source pixel's own depth puts it back


def look(prepared: Prepared, rows: Tensor, points: Points) -> Pairs:
    """All pairs of the views `rows` [V] with the points, which were carried along for these views."""
    z, u, v, extent = _project(prepared.projections[rows], points.xyz, prepared.sizes[rows])
    inside = extent > 0
    width = prepared.views.depth.shape[2]
    start = (rows * (prepared.views.depth.shape[1] * width)).to(torch.int32)[:, None]
    limit = prepared.sizes[rows][:, :, None] - 1
    column, line = u.clamp(min=0).minimum(limit[:, 0]).int(), v.clamp(min=0).minimum(limit[:, 1]).int()
    nearest = (start + line * width + column).reshape(-1)
    allowed = prepared.allowed.index_select(0, nearest).view_as(u)
    same = prepared.instances.index_select(0, nearest).view_as(u) == points.instances
    inverse, hidden = _interpolated(prepared, start, u, v, limit, nearest, z)
    ratio = z * inverse  # z / D
    difference = (ratio - 1).abs()
    same = same & inside & ~hidden
    limits = allowed.abs()
    visible = same & (difference <= allowed)
    nearly = same & (difference <= DOUBT * limits)
    edge = prepared.edge.index_select(0, nearest).view_as(u) * (1 / 255)
    ray, sight, cosine = _angles(points, prepared.centers[rows])
    pixel = sight * points.footprints  # size of a target pixel on the surface, in units of the source
    resolution = prepared.focals[rows][:, None] / z * pixel
    gap = (prepared.times[rows][:, None] - points.times).abs()
    share = difference / limits
    exponent = share.square() + EDGE_FALLOFF * edge + gap * points.fading
    weight = torch.exp(-exponent) * cosine.clamp(min=0).square().square().square() * resolution.clamp(max=1)
    off = difference / ratio.clamp(min=1e-6) * ray  # from the point to where D puts it, along the source's ray
    cycle = off * (1 - cosine.square()).clamp(min=0).sqrt() / pixel
    weight = torch.where(visible, weight.clamp(min=LEAST_WEIGHT), 0.0)
    return Pairs(u, v, visible, nearly, extent, weight, share, cosine, resolution, edge, gap, cycle)


def extents(prepared: Prepared, rows: Tensor, xyz: Tensor, far: bool = False) -> Tensor:
    """[n] pixels by which points [3, n] (directions, if `far`) lie inside the image of the view that has them deepest
    inside; negative: outside of all."""
    best = xyz.new_full((xyz.shape[1],), BEHIND)
    for part in rows.split(max(1, (1 << 20) // max(xyz.shape[1], 1))):
        P = prepared.projections[part]
        P = torch.cat([P[..., :3], torch.zeros_like(P[..., 3:])], -1) if far else P
        best = torch.maximum(best, _project(P, xyz[None], prepared.sizes[part])[3].amax(0))
    return best


def _project(P: Tensor, xyz: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Depth, pixels and signed distance to the image's border, [V, n] each, of points [V or 1, 3, n]."""
    if xyz.shape[0] == 1:
        cam = (P[:, :, :3].reshape(-1, 3) @ xyz[0]).reshape(len(P), 3, -1) + P[:, :, 3:]
    else:
        cam = torch.baddbmm(P[:, :, 3:], P[:, :, :3], xyz)
    z = cam[:, 2]
    ahead = z > NEAR
    scale = torch.where(ahead, z, 1.0).reciprocal()
    u, v = cam[:, 0] * scale, cam[:, 1] * scale
    across = torch.minimum(u, sizes[:, :1] - u)
    extent = torch.minimum(across, torch.minimum(v, sizes[:, 1:] - v))
    return z, u, v, torch.where(ahead, extent, BEHIND)


def _interpolated(
    prepared: Prepared, start: Tensor, u: Tensor, v: Tensor, limit: Tensor, nearest: Tensor, z: Tensor
) -> tuple[Tensor, Tensor]:
    """1/D at the pixels: bilinear, and that of the nearest pixel at edges; and whether a point at an edge is to be
    taken as hidden: more than a quarter of the four pixels around it, by their bilinear weights, is of something
    nearer."""
    width = prepared.views.depth.shape[2]
    x = (u - 0.5).clamp(min=0).minimum(limit[:, 0])
    y = (v - 0.5).clamp(min=0).minimum(limit[:, 1])
    left = x.floor().minimum((limit[:, 0] - 1).clamp(min=0))
    top = y.floor().minimum((limit[:, 1] - 1).clamp(min=0))
    corner = (start + top.int() * width + left.int()).reshape(-1)
    x, y = x - left, y - top
    step, down = int(width > 1), width * int(prepared.views.depth.shape[1] > 1)
    taps = [prepared.inverse.index_select(0, corner + offset).view_as(u) for offset in (0, step, down, down + step)]
    inverse = _bilinear(taps, x, y)
    hidden = torch.zeros_like(u, dtype=torch.bool)
    bent = prepared.bent.index_select(0, nearest).nonzero()[:, 0]  # few: looked at one by one
    if len(bent):
        at = nearest[bent]
        inverse.view(-1)[bent] = prepared.inverse.index_select(0, at)
        over = (1 + prepared.allowed.index_select(0, at).abs()) / z.reshape(-1)[bent]
        nearer = [(tap.reshape(-1)[bent] > over).float() for tap in taps]
        hidden.view(-1)[bent] = _bilinear(nearer, x.reshape(-1)[bent], y.reshape(-1)[bent]) > HIDING
    return inverse, hidden


def _bilinear(taps: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Of the values at upper left, upper right, lower left, lower right, at shares x and y of the way."""
    upper, lower = torch.lerp(taps[0], taps[1], x), torch.lerp(taps[2], taps[3], x)
    return torch.lerp(upper, lower, y)


def _angles(points: Points, centers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distances to the source's camera and to the carried eye, and the cosine between the lines of sight."""
    ray = points.xyz - centers[:, :, None]
    sight = points.xyz - points.eyes
    length, distance = _norm(ray), _norm(sight)
    dot = (ray[:, 0] * sight[:, 0]).addcmul_(ray[:, 1], sight[:, 1]).addcmul_(ray[:, 2], sight[:, 2])
    return length, distance, dot / (length * distance).clamp(min=1e-12)


def _norm(x: Tensor) -> Tensor:
    return (x[:, 0].square() + x[:, 1].square() + x[:, 2].square()).sqrt()
