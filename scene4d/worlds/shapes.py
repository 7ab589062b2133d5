"""Rays against primitives in their rest frame, in closed form and float64.

A ray is origin + s * direction; where directions have z = 1 in the camera, s is the depth. Only surfaces seen from
outside count: a camera inside an object does not see it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scene4d.worlds.types import Box, Capsule, Rect, Shape, Sphere

NEAR = 1e-3  # metres; nothing nearer to the camera plane is seen


def intersect_shape(
    shape: Shape,
    origin: Tensor,  # [3] float64
    directions: Tensor,  # [..., 3] float64, any length
) -> Tensor:
    """s of the first hit of each ray, [...]; inf where there is none beyond NEAR."""
    d = directions.unbind(-1)
    o = [float(v) for v in origin]
    if isinstance(shape, Sphere):
        unit = [d[i] / shape.radii[i] for i in range(3)]
        return _beyond_near(_sphere([o[i] / shape.radii[i] for i in range(3)], unit, 1.0))
    if isinstance(shape, Box):
        return _beyond_near(_box(shape, o, d))
    if isinstance(shape, Rect):
        s = -o[2] / d[2]
        inside = ((o[0] + s * d[0]).abs() <= shape.half[0]) & ((o[1] + s * d[1]).abs() <= shape.half[1])
        return _beyond_near(torch.where(inside & (d[2] < 0), s, torch.inf))
    return _beyond_near(_capsule(shape, o, d))


def _beyond_near(s: Tensor) -> Tensor:
    return torch.where(s > NEAR, s, torch.inf)  # false for NaN too


def _first_root(a: Tensor, b: Tensor, c: Tensor | float) -> Tensor:
    """Smaller root of a s^2 + 2 b s + c, NaN where there is none."""
    return (-b - (b * b - a * c).sqrt()) / a


def _sphere(o: list[float], d: list[Tensor] | tuple[Tensor, ...], radius: float) -> Tensor:
    a = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
    b = o[0] * d[0] + o[1] * d[1] + o[2] * d[2]
    return _first_root(a, b, o[0] ** 2 + o[1] ** 2 + o[2] ** 2 - radius**2)


def _box(shape: Box, o: list[float], d: tuple[Tensor, ...]) -> Tensor:
    """Slab method: the last entry is the hit if it comes before the first exit."""
    enter = torch.full_like(d[0], -torch.inf)
    leave = torch.full_like(d[0], torch.inf)
    for i in range(3):
        inverse = 1.0 / d[i]
        low, high = (-shape.half[i] - o[i]) * inverse, (shape.half[i] - o[i]) * inverse
        enter = torch.maximum(enter, torch.minimum(low, high))
        leave = torch.minimum(leave, torch.maximum(low, high))
    return torch.where(enter <= leave, enter, torch.inf)


def _capsule(shape: Capsule, o: list[float], d: tuple[Tensor, ...]) -> Tensor:
    """First hit of the cylinder between the ends, else of the end spheres beyond them."""
    a = d[0] * d[0] + d[1] * d[1]
    b = o[0] * d[0] + o[1] * d[1]
    side = _first_root(a, b, o[0] ** 2 + o[1] ** 2 - shape.radius**2)
    best = torch.where((o[2] + side * d[2]).abs() <= shape.half_length, side, torch.inf)
    for sign in (-1.0, 1.0):
        end = _sphere([o[0], o[1], o[2] - sign * shape.half_length], d, shape.radius)
        beyond = sign * (o[2] + end * d[2]) >= shape.half_length
        best = torch.minimum(best, torch.where(beyond, end, torch.inf))
    return best


def rest_normals(shape: Shape, points: Tensor) -> Tensor:
    """Outward normals of surface points [N, 3] in the rest frame, not of unit length."""
    if isinstance(shape, Sphere):
        return points / points.new_tensor(shape.radii) ** 2
    if isinstance(shape, Box):
        scaled = points / points.new_tensor(shape.half)
        face = scaled.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(points).scatter(-1, face, scaled.gather(-1, face).sign())
    if isinstance(shape, Rect):
        return points.new_tensor([0.0, 0.0, 1.0]).expand_as(points)
    axis_point = torch.zeros_like(points)
    axis_point[..., 2] = points[..., 2].clamp(-shape.half_length, shape.half_length)
    return points - axis_point


def bounding_radius(shape: Shape) -> float:
    """Radius of a sphere around the rest origin that holds the shape."""
    if isinstance(shape, Sphere):
        return max(shape.radii)
    if isinstance(shape, Capsule):
        return shape.radius + shape.half_length
    return sum(h * h for h in shape.half) ** 0.5
