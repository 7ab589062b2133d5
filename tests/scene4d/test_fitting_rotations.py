"""Rotations from point pairs and from matrices, against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from scene4d.fitting.rotations import matrix_quats, procrustes


def rotations(n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(Rotation.random(n, np.random.default_rng(seed)).as_matrix()).float()


def cross_covariance(x: Tensor, y: Tensor) -> Tensor:
    """sum (y - my)(x - mx)^T of points [J, k, 3]."""
    return (y - y.mean(1, keepdim=True)).mT @ (x - x.mean(1, keepdim=True))


def turned_degrees(a: Tensor, b: Tensor) -> Tensor:
    """Angle [J] between rotations [J, 3, 3]."""
    relative = Rotation.from_matrix((a.double().mT @ b.double()).numpy())
    return torch.from_numpy(np.degrees(relative.magnitude()))


def test_procrustes_finds_the_rotation_of_turned_and_shifted_points() -> None:
    R = rotations(50)
    x = torch.randn(50, 10, 3, generator=torch.Generator().manual_seed(1))
    y = x @ R.mT + torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(2))
    # the pull to the identity is 1e-3 of the covariance's size: some tenths of a degree where points are spread
    assert float(turned_degrees(procrustes(cross_covariance(x, y)), R).max()) < 0.5
    assert float(turned_degrees(procrustes(1e-6 * cross_covariance(x, y)), R).max()) < 0.5  # whatever the unit


@pytest.mark.parametrize("degrees", [170.0, 179.0, 180.0])
def test_procrustes_finds_half_turns(degrees: float) -> None:
    axes = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(3)), dim=1)
    R = torch.from_numpy(Rotation.from_rotvec(math.radians(degrees) * axes.numpy()).as_matrix()).float()
    x = torch.randn(20, 30, 3, generator=torch.Generator().manual_seed(4))
    assert float(turned_degrees(procrustes(cross_covariance(x, x @ R.mT)), R).max()) < 0.5


def test_procrustes_never_mirrors() -> None:
    x = torch.randn(30, 8, 3, generator=torch.Generator().manual_seed(5))
    R = procrustes(cross_covariance(x, -x))
    torch.testing.assert_close(torch.det(R), torch.ones(30))
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(30, 3, 3), atol=1e-5, rtol=0)


def test_procrustes_is_at_least_as_near_as_any_other_rotation() -> None:
    """The definition of the nearest: the largest trace of R^T C, over a thousand rotations at random."""
    cross = torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(6))
    best = (procrustes(cross) * cross).sum((1, 2))
    others = torch.einsum("rab,jab->jr", rotations(1000, seed=7), cross)
    pull = 2 * 3e-3 * cross.flatten(1).norm(dim=1)  # what the identity may win at most
    assert bool((best[:, None] >= others - pull[:, None]).all())


def test_points_on_a_line_do_not_spin_and_points_in_one_place_do_not_turn() -> None:
    x = torch.linspace(-1, 1, 9)[None, :, None] * torch.tensor([0.0, 0.0, 1.0])
    assert float(turned_degrees(procrustes(cross_covariance(x, x)), torch.eye(3)[None]).max()) < 1e-3
    quarter = torch.from_numpy(Rotation.from_euler("x", 90, degrees=True).as_matrix()).float()
    # the line turns by 90 degrees about x, and not about itself
    assert float(turned_degrees(procrustes(cross_covariance(x, x @ quarter.T)), quarter[None]).max()) < 0.2
    torch.testing.assert_close(procrustes(torch.zeros(2, 3, 3)), torch.eye(3).expand(2, 3, 3))


@pytest.mark.parametrize("degrees", [0.0, 1e-3, 90.0, 179.0, 179.999, 180.0])
def test_matrix_quats_are_scipys_quaternions(degrees: float) -> None:
    axes = torch.cat([torch.eye(3), torch.randn(60, 3, generator=torch.Generator().manual_seed(8))])
    axes = torch.nn.functional.normalize(axes, dim=1).double()
    truth = Rotation.from_rotvec(math.radians(degrees) * axes.numpy())
    quats = matrix_quats(torch.from_numpy(truth.as_matrix()))
    x, y, z, w = truth.as_quat().T
    dots = (quats.double() * torch.from_numpy(np.stack([w, x, y, z], 1))).sum(1).abs()
    torch.testing.assert_close(dots, torch.ones_like(dots), atol=1e-6, rtol=0)  # float32
    again = Rotation.from_quat(quats.double().numpy()[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(again, truth.as_matrix(), atol=3e-6)
