"""Seeded faults for captures of worlds: what estimated depth, poses and masks are like.

H W pixels, C cameras, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from scene4d.worlds.motions import rotation_about


@dataclass(frozen=True)
class Noise:
    """Standard deviations; 0 leaves the truth."""

    depth: float = 0.0  # relative, varying smoothly over the image
    pose_degrees: float = 0.0  # turn of each camera (of each frame of a moving one)
    pose_shift: float = 0.0  # metres, shift of each camera
    mask_pixels: float = 0.0  # how far mask borders wander
    seed: int = 0


def smooth_field(height: int, width: int, cell: float, random: np.random.Generator) -> np.ndarray:
    """[H, W] float32 of standard deviation near 1 that varies over about `cell` pixels."""
    rows, columns = max(2, round(height / cell) + 1), max(2, round(width / cell) + 1)
    coarse = random.normal(size=(rows, columns)).astype(np.float32)
    field = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return field / 0.86  # what cubic interpolation between independent values leaves of their deviation


def noisy_depth(depth: np.ndarray, noise: Noise, random: np.random.Generator) -> np.ndarray:
    """[H, W] depth times 1 + noise; pixels without depth stay 0."""
    if noise.depth == 0.0:
        return depth
    factor = 1.0 + noise.depth * smooth_field(depth.shape[0], depth.shape[1], 24.0, random)
    return (depth * np.maximum(factor, 0.05)).astype(np.float32)


def noisy_mask(ids: np.ndarray, noise: Noise, random: np.random.Generator) -> np.ndarray:
    """[H, W] ids looked up at smoothly displaced pixels."""
    if noise.mask_pixels == 0.0:
        return ids
    height, width = ids.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    rows += noise.mask_pixels * smooth_field(height, width, 12.0, random)
    columns += noise.mask_pixels * smooth_field(height, width, 12.0, random)
    i = np.clip(np.rint(rows), 0, height - 1).astype(int)
    j = np.clip(np.rint(columns), 0, width - 1).astype(int)
    return ids[i, j]


def noisy_poses(world_to_cam: np.ndarray, noise: Noise, random: np.random.Generator) -> np.ndarray:
    """world_to_cam [C, T, 4, 4], each turned about a random axis through its centre and shifted."""
    if noise.pose_degrees == 0.0 and noise.pose_shift == 0.0:
        return world_to_cam
    noisy = world_to_cam.copy()
    for index in np.ndindex(*world_to_cam.shape[:2]):
        fault = np.eye(4)
        axis = random.normal(size=3)
        # a rotation vector of three normal components is this axis times its length
        fault[:3, :3] = rotation_about(tuple(axis), np.radians(noise.pose_degrees) * float(np.linalg.norm(axis)))
        fault[:3, 3] = noise.pose_shift * random.normal(size=3)
        noisy[index] = fault @ world_to_cam[index]
    return noisy
