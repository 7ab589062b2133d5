"""Cameras around a world: the standard arc with held-out cameras, and one moving camera.

C cameras, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.worlds.types import Stage, World

TRAIN_CAMERAS = 6
HELD_OUT_SLOTS = (1, 3)  # held-out camera i stands midway between training cameras SLOT and SLOT + 1
HELD_OUT_EVERY = 4  # frames 3, 7, 11, ... are held out


@dataclass(frozen=True)
class Rig:
    """Named cameras of one size and their poses at every frame."""

    names: tuple[str, ...]
    world_to_cam: Tensor  # [C, T, 4, 4] float64; T = 1 for cameras that stand still
    K: Tensor  # [3, 3] float64
    width: int
    height: int
    test_cameras: tuple[str, ...] = ()

    def at(self, frame: int) -> Cameras:
        """All cameras at a frame."""
        poses = self.world_to_cam[:, frame if self.world_to_cam.shape[1] > 1 else 0]
        return Cameras(poses, self.K.expand(len(poses), 3, 3), self.width, self.height)


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """world_to_cam [4, 4] of a level camera at `eye` that sees `target` [3] in its centre; z is up in the world."""
    forward = target - eye
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    R_cam_world = np.stack([right, np.cross(forward, right), forward])
    world_to_cam = np.eye(4)
    world_to_cam[:3, :3] = R_cam_world
    world_to_cam[:3, 3] = -R_cam_world @ eye
    return world_to_cam


def arc_pose(stage: Stage, degrees: float, lift: float = 0.0, closer: float = 0.0) -> np.ndarray:
    """world_to_cam on the stage's arc, `degrees` from its middle, raised by `lift` degrees, nearer by a share."""
    azimuth = math.radians(stage.azimuth + degrees)
    elevation = math.radians(stage.elevation + lift)
    level = math.cos(elevation)
    direction = np.array([level * math.cos(azimuth), level * math.sin(azimuth), math.sin(elevation)])
    target = np.asarray(stage.target)
    return look_at(target + stage.distance * (1.0 - closer) * direction, target)


def intrinsics(stage: Stage, width: int, height: int) -> Tensor:
    """K [3, 3] float64 with square pixels and a central principal point."""
    focal = stage.focal * width
    return torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)


def arc_rig(world: World, width: int = 160, height: int = 120) -> Rig:
    """The standard split: six training cameras, evenly on the stage's arc, then two held-out cameras between them."""
    stage = world.stage
    angles = np.linspace(-stage.degrees, stage.degrees, TRAIN_CAMERAS)
    step = angles[1] - angles[0]
    angles = np.concatenate([angles, [angles[s] + step / 2 for s in HELD_OUT_SLOTS]])
    poses = np.stack([arc_pose(stage, a) for a in angles])[:, None]
    names = tuple(f"cam{i:02d}" for i in range(len(angles)))
    K = intrinsics(stage, width, height)
    return Rig(names, torch.from_numpy(poses), K, width, height, names[TRAIN_CAMERAS:])


def moving_rig(world: World, frames: int, width: int = 160, height: int = 120) -> Rig:
    """One camera that sweeps the stage's arc once, rising, falling and coming closer on the way."""
    stage = world.stage
    shares = np.linspace(0.0, 1.0, frames) if frames > 1 else np.array([0.5])
    poses = [
        arc_pose(stage, stage.degrees * (2 * s - 1), 4.0 * math.sin(2 * math.pi * s), 0.08 * math.sin(math.pi * s))
        for s in shares
    ]
    return Rig(("cam00",), torch.from_numpy(np.stack(poses)[None]), intrinsics(stage, width, height), width, height)


def held_out_frames(frames: int) -> list[int]:
    return list(range(HELD_OUT_EVERY - 1, frames, HELD_OUT_EVERY))
