"""Quaternions wxyz as tensors [..., 4]."""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 1e-4  # squared half-angle below which series are used: their error, its 4th power, is what float64 resolves


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """The product a b: of rotations, b first."""
    aw, av, bw, bv = a[..., :1], a[..., 1:], b[..., :1], b[..., 1:]
    vector = torch.addcmul(torch.addcmul(torch.linalg.cross(av, bv), aw, bv), bw, av)
    return torch.cat([aw * bw - (av * bv).sum(-1, keepdim=True), vector], -1)


def conjugate(q: Tensor) -> Tensor:
    return torch.cat([q[..., :1], -q[..., 1:]], -1)


def rotate(q: Tensor, points: Tensor) -> Tensor:
    """Points [..., 3] turned by unit quaternions."""
    axis = q[..., 1:]
    twice = 2 * torch.linalg.cross(axis, points)
    return points + q[..., :1] * twice + torch.linalg.cross(axis, twice)


def nonzero(q: Tensor) -> Tensor:
    """Zero quaternions replaced by the identity."""
    return q + (q == 0).all(-1, keepdim=True) * q.new_tensor([1.0, 0, 0, 0])


def unit(q: Tensor) -> Tensor:
    """Quaternions of any length to length 1; zero gives the identity."""
    largest = q.detach().abs().amax(-1, keepdim=True).clamp_min(1e-30)  # squares of very short ones would underflow
    return torch.nn.functional.normalize(nonzero(q) / largest.masked_fill(largest <= 1e-30, 1.0), dim=-1)


def log_quat(q: Tensor) -> Tensor:
    """Half the rotation vector [..., 3] of unit quaternions, by the shorter arc; smooth at the identity."""
    w, axis = q[..., :1], q[..., 1:]
    back = w < 0
    w, axis = torch.where(back, -w, w), torch.where(back, -axis, axis)
    squared = (axis * axis).sum(-1, keepdim=True)
    small = squared < SMALL
    sine = squared.masked_fill(small, 1.0).sqrt()
    cosine = w.masked_fill(~small, 1.0)
    r = squared / (cosine * cosine)  # tan^2
    series = (1 - r * (1 / 3 - r * (1 / 5 - r / 7))) / cosine
    return torch.where(small, series, torch.atan2(sine, w) / sine) * axis


def exp_quat(half: Tensor) -> Tensor:
    """Unit quaternions [..., 4] of half the rotation vector; smooth at 0."""
    s = (half * half).sum(-1, keepdim=True)
    small = s < SMALL
    angle = s.masked_fill(small, 1.0).sqrt()
    sine = torch.where(small, 1 - s / 6 * (1 - s / 20 * (1 - s / 42)), angle.sin() / angle)
    cosine = torch.where(small, 1 - s / 2 * (1 - s / 12 * (1 - s / 30)), angle.cos())
    return torch.cat([cosine, sine * half], -1)
