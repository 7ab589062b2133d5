"""Sparse points of what stands still, and depth maps made from them.

P points, H W pixels.
"""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from scene4d.captures import View
from scene4d.fitting.flows import pixel_grid
from scene4d.fitting.footage import Footage
from scene4d.fitting.hull import inside, project

FEATURES = 4000
MOST_VIEWS = 12  # that features are looked for in
EPIPOLAR = 1.5  # pixels
RATIO = 0.75  # Lowe 2004, section 7.1
LEAST_ANGLE = 1.5  # degrees between two rays
NEAREST = 6  # points that a pixel's depth is made from
LEAST_POINTS = 12  # below which a picture's depth is not known at all


def triangulated_points(footage: Footage, pictures: dict[str, Tensor]) -> Tensor:
    """Points [P, 3] from SIFT features of pictures with known cameras, one picture [H, W, 3] per view name.

    Matches are mutual, pass the ratio test among the candidates on the epipolar line, and lie in front of both cameras.
    """
    views = _chosen(footage, pictures)
    sift = cv2.SIFT.create(FEATURES, contrastThreshold=0.02)
    found = []
    for view, picture in views:
        grey = cv2.cvtColor((picture * 255).round().byte().numpy(), cv2.COLOR_RGB2GRAY)
        ids = footage.instances(view)
        mask = None if ids is None or view.camera in pictures else (ids == 0).byte().numpy() * 255
        keys, descriptors = sift.detectAndCompute(grey, mask)
        places = np.array([k.pt for k in keys], np.float64).reshape(-1, 2) + 0.5
        found.append((view, places, descriptors if descriptors is not None else np.zeros((0, 128), np.float32)))
    parts = [_pair(a, b) for a, b in combinations(found, 2)]
    xyz = np.concatenate(parts) if parts else np.zeros((0, 3))
    return torch.from_numpy(_without_loners(xyz)).float()


def _chosen(footage: Footage, pictures: dict[str, Tensor]) -> list[tuple[View, Tensor]]:
    """Backgrounds of still cameras; of a moving camera some frames."""
    chosen = [(footage.of_camera(name)[0], picture) for name, picture in pictures.items()]
    rest = [v for v in footage.views if v.camera not in pictures]
    step = max(1, len(rest) // MOST_VIEWS)
    return chosen[: 2 * MOST_VIEWS] + [(v, footage.image(v)) for v in rest[::step][:MOST_VIEWS]]


def _matrices(view: View) -> tuple[np.ndarray, np.ndarray]:
    assert view.K is not None and view.world_to_cam is not None
    return view.K.numpy(), view.world_to_cam.numpy()


def fundamental(a: View, b: View) -> np.ndarray:
    """F [3, 3] with x_b^T F x_a = 0 (Hartley and Zisserman 2004, equation 9.2)."""
    (Ka, Ta), (Kb, Tb) = _matrices(a), _matrices(b)
    T_b_a = Tb @ np.linalg.inv(Ta)
    t = T_b_a[:3, 3]
    across = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    return np.linalg.inv(Kb).T @ across @ T_b_a[:3, :3] @ np.linalg.inv(Ka)


def _pair(a: tuple, b: tuple) -> np.ndarray:
    """World points [P, 3] that two views agree on."""
    (view_a, at_a, des_a), (view_b, at_b, des_b) = a, b
    if len(at_a) < 2 or len(at_b) < 2:
        return np.zeros((0, 3))
    lines = np.c_[at_a, np.ones(len(at_a))] @ fundamental(view_a, view_b).T
    lines /= np.maximum(np.linalg.norm(lines[:, :2], axis=1, keepdims=True), 1e-12)
    off = np.abs(lines @ np.c_[at_b, np.ones(len(at_b))].T)
    square = (des_a**2).sum(1)[:, None] + (des_b**2).sum(1)[None] - 2 * des_a @ des_b.T
    distance = np.where(off < EPIPOLAR, np.sqrt(np.maximum(square, 0)), 1e9)
    match = distance.argmin(1)
    best = np.sort(distance, 1)[:, :2]
    mutual = distance.argmin(0)[match] == np.arange(len(match))
    rows = np.flatnonzero(mutual & (best[:, 0] < RATIO * best[:, 1]) & (best[:, 0] < 250))
    if not len(rows):
        return np.zeros((0, 3))
    (Ka, Ta), (Kb, Tb) = _matrices(view_a), _matrices(view_b)
    X = cv2.triangulatePoints(Ka @ Ta[:3], Kb @ Tb[:3], at_a[rows].T.copy(), at_b[match[rows]].T.copy())
    X = (X[:3] / np.where(np.abs(X[3]) < 1e-12, 1e-12, X[3])).T
    rays = [X + T[:3, :3].T @ T[:3, 3] for T in (Ta, Tb)]
    cosine = (rays[0] * rays[1]).sum(1) / np.maximum(np.prod([np.linalg.norm(r, axis=1) for r in rays], 0), 1e-12)
    front = np.all([X @ T[2, :3] + T[2, 3] > 0 for T in (Ta, Tb)], 0)
    return X[front & (cosine < np.cos(np.radians(LEAST_ANGLE)))]


def _without_loners(xyz: np.ndarray) -> np.ndarray:
    """Points that have others around them: a wrong match on an epipolar line lies anywhere."""
    if len(xyz) < 8:
        return xyz
    distance = KDTree(xyz).query(xyz, k=5)[0][:, 4]
    return xyz[distance < 3 * np.median(distance)]


def completed_depth(footage: Footage, view: View, points: Tensor) -> Tensor | None:
    """Depth [H, W] of a view from points [P, 3]: inverse depths of the nearest ones in the picture, by distance.

    None with too few points in the picture. Points behind others are not told from those in front: they are sparse.
    """
    camera = footage.capture.cameras([view])
    uv, z = project(camera, points)
    visible = inside(camera, uv, z)
    if int(visible.sum()) < LEAST_POINTS:
        return None
    uv, z = uv[visible].numpy(), z[visible].numpy()
    grid = pixel_grid(view.height, view.width).reshape(-1, 2).numpy()[:]
    distance, index = KDTree(uv).query(grid, k=NEAREST)
    weights = 1.0 / (distance**2 + 4.0)
    inverse = 1.0 / z[index]
    order = np.sort(inverse, 1)
    middle = (order[:, NEAREST // 2 - 1 : NEAREST // 2]).repeat(NEAREST, 1)
    near = np.abs(inverse - middle) < 0.3 * middle  # one surface, the one that most of them lie on
    weights = weights * near + 1e-12
    mean = (weights * inverse).sum(1) / weights.sum(1)
    return torch.from_numpy(1.0 / mean).float().reshape(view.height, view.width)
