"""Rotations from point pairs and from matrices.

J rotations.
"""

from __future__ import annotations

import torch
from torch import Tensor


def procrustes(cross: Tensor) -> Tensor:
    """The rotations [J, 3, 3] nearest to cross covariances sum (y - my)(x - mx)^T (Kabsch 1976, Umeyama 1991).

    A slight pull to the identity keeps points on a line or in one place from turning at random.
    """
    size = cross.flatten(1).norm(dim=1)[:, None, None].clamp_min(1e-20)
    U, _, Vh = torch.linalg.svd((cross / size + 1e-3 * torch.eye(3)).double())
    sign = torch.ones(len(cross), 3, dtype=torch.float64)
    sign[:, 2] = torch.det(U @ Vh)
    return (U @ (sign[:, :, None] * Vh)).float()


def matrix_quats(R: Tensor) -> Tensor:
    """Unit quaternions [J, 4] wxyz of rotations [J, 3, 3] (Shepperd 1978: from the largest of four forms)."""
    m = R.double()
    trace = m[:, 0, 0] + m[:, 1, 1] + m[:, 2, 2]
    forms = torch.stack([trace, m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]], 1)
    w = torch.stack([1 + trace, m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], 1)
    x = torch.stack([w[:, 1], 1 + 2 * m[:, 0, 0] - trace, m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0]], 1)
    y = torch.stack([w[:, 2], x[:, 2], 1 + 2 * m[:, 1, 1] - trace, m[:, 1, 2] + m[:, 2, 1]], 1)
    z = torch.stack([w[:, 3], x[:, 3], y[:, 3], 1 + 2 * m[:, 2, 2] - trace], 1)
    best = torch.stack([w, x, y, z], 1)[torch.arange(len(m)), forms.argmax(1)]
    return torch.nn.functional.normalize(best, dim=1).float()
