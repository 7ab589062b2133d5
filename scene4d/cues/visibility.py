"""Which source views see which surface points, and how well: one look-up a pair.

    u = proj(K_s, T_s X_s),  z its depth,  D its depth in the source view (1/D bilinear off edges, nearest on edges)
    r = |z - D| / D
    visible = u in the image, z > near, r <= tolerance + slope factor * slope, same instance, pixel not flying,
              surface faces the camera

    weight = visible exp(-(r / allowed)^2) max(cos, 0)^8 min(1, resolution) exp(-4 edge) exp(-gap / T if deforming)

cos is that of the angle between the two lines of sight, on the surface; resolution is source pixels a target pixel;
edge is 1 at a jump of the source's depth and 0 at a few pixels from it, and 0 for the target's own line of sight; gap
is the time between the source picture and the state that is shown.

V views, n points. Pixels are (right, down) with centres at +0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.cues.sources import BENT_MARK, EDGE_MASK, INSTANCE_SHIFT, Prepared

NEAR = 1e-3  # scene units: nothing nearer to a camera is seen
ANGLE_POWER = 8  # of the cosine: a quarter of the weight at 33 degrees
EDGE_FALLOFF = 4.0
LEAST_WEIGHT = 1e-6  # of what is visible: the only view of a pixel is used however poor it is
AVERTED = 0.05  # sine of the angle by which an estimated normal may look away from a camera that sees the surface
HIDING = 0.25  # share of the surrounding pixels that may be of something nearer
DOUBT = 2.0  # times the allowed difference: beyond it a point is not even nearly visible
SAME_SIGHT = 1e-6  # 1 - cos of 0.08 degrees: the target's own line of sight
BEHIND = -1e6  # pixels: signed distance to the border of the image for what is behind the camera


@dataclass(frozen=True)
class Points:
    """Surface points as the source views are asked for them."""

    xyz: Tensor  # [V or 1, 3, n] where each view has to look
    eyes: Tensor  # [V or 1, 3, n or 1] the target's camera centre, carried along with the surface
    normals: Tensor  # [V or 1, 3, n] unit, towards the eyes; 0 = not known
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
            self.normals[..., chosen],
            self.instances[chosen],
            self.times[chosen],
            self.fading[chosen],
            self.footprints[chosen],
        )


@dataclass(frozen=True)
class Pairs:
    """What V views tell about n points."""

    u: Tensor  # [V, n] pixels
    v: Tensor  # [V, n]
    z: Tensor  # [V, n]
    visible: Tensor  # [V, n] bool
    nearly: Tensor  # [V, n] bool: visible, or would be with twice the tolerance and flying pixels taken as they are
    extent: Tensor  # [V, n] pixels to the border of the image, negative outside
    weight: Tensor  # [V, n] 0 to 1
    ratio: Tensor  # [V, n] z / D
    allowed: Tensor  # [V, n] what |z / D - 1| may be
    cosine: Tensor  # [V, n]
    resolution: Tensor  # [V, n] source pixels a target pixel
    edge: Tensor  # [V, n] 0 to 1
    distance: Tensor  # [V, n] from the source's camera
    sight: Tensor  # [V or 1, n] from the carried eye


def look(prepared: Prepared, rows: Tensor, points: Points) -> Pairs:
    """All pairs of the views `rows` [V] with the points, which were carried along for these views."""
    z, u, v, extent = _project(prepared.projections[rows], points.xyz, prepared.sizes[rows])
    width = prepared.views.depth.shape[2]
    start = (rows * (prepared.views.depth.shape[1] * width)).to(torch.int32)[:, None]
    limit = prepared.sizes[rows][:, :, None] - 1
    column, line = u.clamp(min=0).minimum(limit[:, 0]).int(), v.clamp(min=0).minimum(limit[:, 1]).int()
    nearest = (start + line * width + column).reshape(-1)
    allowed = prepared.allowed.index_select(0, nearest).view_as(u)
    marks = prepared.marks.index_select(0, nearest).view_as(u)  # instance, edge and whether it is bent, in one look-up
    inverse, hidden = _interpolated(prepared, start, (u, v, z), limit, nearest, marks)
    distance, sight, cosine, facing = _angles(points, prepared.centers[rows])
    same = ((marks >> INSTANCE_SHIFT) == points.instances.int()) & (extent > 0) & facing & ~hidden
    ratio = z * inverse
    difference = (ratio - 1).abs()
    visible = same & (difference <= allowed)
    allowed = allowed.abs()
    nearly = same & (difference <= DOUBT * allowed)
    edge = (marks & EDGE_MASK) * (1 / EDGE_MASK)
    resolution = prepared.focals[rows][:, None] * (sight * points.footprints) / z
    aside = cosine < 1 - SAME_SIGHT
    exponent = (difference / allowed).square() + EDGE_FALLOFF * edge * aside
    if bool((points.fading > 0).any()):
        exponent = exponent + (prepared.times[rows][:, None] - points.times).abs() * points.fading
    weight = torch.exp(-exponent) * cosine.clamp(min=0).square().square().square() * resolution.clamp(max=1)
    weight = torch.where(visible, weight.clamp(min=LEAST_WEIGHT), 0.0)
    return Pairs(u, v, z, visible, nearly, extent, weight, ratio, allowed, cosine, resolution, edge, distance, sight)


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
    prepared: Prepared, start: Tensor, uvz: tuple[Tensor, Tensor, Tensor], limit: Tensor, nearest: Tensor, marks: Tensor
) -> tuple[Tensor, Tensor]:
    """1/D at the pixels: bilinear, and that of the nearest pixel at edges; and whether a point at an edge is to be
    taken as hidden: more than a quarter of the four pixels around it, by their bilinear weights, is of something
    nearer."""
    u, v, z = uvz
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
    bent = (marks & BENT_MARK).reshape(-1).nonzero()[:, 0]  # few: looked at one by one
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


def _angles(points: Points, centers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distances to the source's camera and to the carried eye, the cosine between the lines of sight, and whether the
    surface faces the source's camera: just behind an outline depth alone cannot tell the far side from the near one."""
    if points.xyz.shape[0] > 1:
        ray, sight = points.xyz - centers[:, :, None], points.xyz - points.eyes
        distance, far = _norm(ray), _norm(sight)
        facing = _dot(points.normals, ray) <= AVERTED * distance
        return distance, far, _dot(ray, sight) / (distance * far).clamp(min=1e-12), facing
    # as seen from the one eye, a matrix product gives all views at once
    sight, aside = points.xyz[0] - points.eyes[0], centers - points.eyes[0].T
    square, along = sight.square().sum(0), aside @ sight  # [n], [V, n]
    distance = (square - 2 * along + aside.square().sum(1, keepdim=True)).clamp(min=1e-12).sqrt()
    far = square.sqrt()
    facing = (points.normals[0] * sight).sum(0) - aside @ points.normals[0] <= AVERTED * distance
    return distance, far[None], (square - along) / (distance * far).clamp(min=1e-12), facing


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, 0] * b[:, 0]).addcmul_(a[:, 1], b[:, 1]).addcmul_(a[:, 2], b[:, 2])


def unit_columns(x: Tensor) -> Tensor:
    """[V, 3, n] vectors of length 1."""
    return x / _norm(x).clamp(min=1e-12)[:, None]


def _norm(x: Tensor) -> Tensor:
    return (x[:, 0].square() + x[:, 1].square() + x[:, 2].square()).sqrt()
