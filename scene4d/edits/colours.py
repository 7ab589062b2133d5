"""Colours changed: gains, offsets, hue, saturation and lookup tables, on spherical harmonics.

A Gaussian shows b + v(d), its mean colour b = C0 sh_0 + 0.5 plus what depends on the direction. A change f of colours
makes it f(b) + J(b) v(d), with J the derivative of f: exact for gains, hue and saturation, which are linear, and the
tangent of a lookup table. So a turn of the object and a change of its colours may come in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from renderers.spherical_harmonics import C0
from scene4d.errors import InputError

LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709
MAX_LUT_1D, MAX_LUT_3D = 65536, 129
MAX_CUBE_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Lut:
    """A lookup table from [low, high] to colours; colours outside take the border's value."""

    table: Tensor  # [L, 3] one curve a channel, or [L, L, L, 3] indexed by red, green, blue; float32
    low: tuple[float, float, float] = (0.0, 0.0, 0.0)
    high: tuple[float, float, float] = (1.0, 1.0, 1.0)


def colour_matrix(gain: tuple[float, ...], hue: float, saturation: float) -> Tensor:
    """M [3, 3] float64: gains, then a turn of the hue in degrees about the grey axis, then saturation."""
    c, s = math.cos(math.radians(hue)), math.sin(math.radians(hue))
    one, k = torch.ones(3, 3, dtype=torch.float64) / 3, 1 / math.sqrt(3)
    cross = k * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64)
    turn = c * torch.eye(3, dtype=torch.float64) + (1 - c) * one + s * cross
    grey = torch.tensor([LUMA] * 3, dtype=torch.float64)
    paint = saturation * torch.eye(3, dtype=torch.float64) + (1 - saturation) * grey
    return paint @ turn @ torch.diag(torch.tensor(gain, dtype=torch.float64))


def linear_colours(sh: Tensor, matrix: Tensor, offset: tuple[float, ...]) -> Tensor:
    """sh [n, S, 3] of colours M c + offset."""
    M, o = matrix.to(sh), sh.new_tensor(offset)
    changed = sh @ M.T
    shift = ((M @ sh.new_full((3,), 0.5)) + o - 0.5) / C0  # of the mean colour, b = C0 sh_0 + 0.5
    return torch.cat([changed[:, :1] + shift, changed[:, 1:]], 1)


def looked_up(sh: Tensor, lut: Lut, amount: float) -> Tensor:
    """sh [n, S, 3] after a lookup table, blended with what was by `amount`."""
    mean = C0 * sh[:, 0] + 0.5
    value, J = lut_values(mean, lut)
    first = (torch.lerp(mean, value, amount) - 0.5) / C0
    rest = torch.lerp(sh[:, 1:], sh[:, 1:] @ J.mT, amount)
    return torch.cat([first[:, None], rest], 1)


def lut_values(colors: Tensor, lut: Lut) -> tuple[Tensor, Tensor]:
    """Values [n, 3] of a table and their derivatives [n, 3, 3] (row: output channel) at colours [n, 3]."""
    table = lut.table.to(colors)
    L = table.shape[0]
    low, high = colors.new_tensor(lut.low), colors.new_tensor(lut.high)
    scale = (L - 1) / (high - low)
    place = (colors - low) * scale
    inside = ((place >= 0) & (place <= L - 1)).to(colors)
    place = place.clamp(0, L - 1)
    cell = place.detach().floor().clamp(max=L - 2).long()
    u = place - cell
    slope = inside * scale
    if table.ndim == 2:
        channel = torch.arange(3, device=colors.device)
        a, b = table[cell, channel], table[cell + 1, channel]
        return a + u * (b - a), torch.diag_embed((b - a) * slope)
    value = colors.new_zeros(colors.shape)
    J = colors.new_zeros(*colors.shape, 3)
    for corner in range(8):
        bits = [corner >> axis & 1 for axis in range(3)]
        entry = table[cell[:, 0] + bits[0], cell[:, 1] + bits[1], cell[:, 2] + bits[2]]  # [n, 3]
        share = torch.stack([u[:, axis] if bits[axis] else 1 - u[:, axis] for axis in range(3)], -1)
        value = value + share.prod(-1, keepdim=True) * entry
        for axis in range(3):
            others = share[:, (axis + 1) % 3] * share[:, (axis + 2) % 3] * slope[:, axis]
            J[:, :, axis] += (1 if bits[axis] else -1) * others[:, None] * entry
    return value, J


def parse_cube(data: bytes, path: Path) -> Lut:
    """A table in Adobe's .cube format (Cube LUT Specification 1.0). Raises InputError."""
    size, flat, bounds, rows = 0, False, {"DOMAIN_MIN": (0.0, 0.0, 0.0), "DOMAIN_MAX": (1.0, 1.0, 1.0)}, []
    for number, line in enumerate(data.decode("latin-1").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words or words[0] == "TITLE":
            continue
        try:
            if words[0] in ("LUT_1D_SIZE", "LUT_3D_SIZE") and len(words) == 2 and not size:
                size, flat = int(words[1]), words[0] == "LUT_1D_SIZE"
            elif words[0] in bounds and len(words) == 4:
                bounds[words[0]] = _three(words[1:])
            else:
                rows.append(_three(words))
        except ValueError:
            raise InputError(f"{path}: line {number} is none of a .cube file: {line[:40]!r}") from None
        if not 2 <= size <= (MAX_LUT_1D if flat else MAX_LUT_3D) and rows:
            raise InputError(f"{path}: must give LUT_3D_SIZE 2 to {MAX_LUT_3D} or LUT_1D_SIZE 2 to {MAX_LUT_1D} first")
    expected = size if flat else size**3
    if not size or len(rows) != expected:
        raise InputError(f"{path}: must hold {expected} colours of a size given before them, got {len(rows)}")
    low, high = bounds["DOMAIN_MIN"], bounds["DOMAIN_MAX"]
    if any(not a < b for a, b in zip(low, high, strict=True)):
        raise InputError(f"{path}: DOMAIN_MIN must be below DOMAIN_MAX, got {low} and {high}")
    table = torch.tensor(rows, dtype=torch.float32)
    if not flat:  # red runs fastest in the file
        table = table.reshape(size, size, size, 3).permute(2, 1, 0, 3).contiguous()
    return Lut(table, low, high)


def _three(words: list[str]) -> tuple[float, float, float]:
    r, g, b = (float(word) for word in words)
    if not all(math.isfinite(x) for x in (r, g, b)):
        raise ValueError("not finite")
    return r, g, b
