"""Poses of objects at a time."""

from __future__ import annotations

import math

import numpy as np
import torch

from scene4d.worlds.types import IDENTITY, Drive, Motion, Poses, TimeWarp, World


def drive_at(drive: Drive, time: float) -> float:
    wave = math.sin(2.0 * math.pi * (drive.hz * time + drive.phase))
    return drive.offset + drive.rate * time + drive.amplitude * wave


def warp_time(warp: TimeWarp, time: float) -> float:
    """Object time at a scene time."""
    times, values = warp.times, warp.values
    last = len(times) - 2
    k = min(max(int(np.searchsorted(times, time, side="right")) - 1, 0), last)
    slope = (values[k + 1] - values[k]) / (times[k + 1] - times[k])
    return values[k] + slope * (time - times[k])


def rotation_about(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    """[3, 3] by Rodrigues' formula; the axis may have any length but zero."""
    x, y, z = np.asarray(axis, dtype=np.float64) / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1.0 - math.cos(angle)) * cross @ cross


def rotation_from_quat(quat: tuple[float, float, float, float]) -> np.ndarray:
    """[3, 3] of wxyz of any length but zero."""
    w, x, y, z = np.asarray(quat, dtype=np.float64) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def local_pose(motion: Motion, time: float) -> np.ndarray:
    """T_parent_obj [4, 4], rigid."""
    T_parent_obj = np.eye(4)
    T_parent_obj[:3, :3] = rotation_about(motion.axis, drive_at(motion.angle, time)) @ rotation_from_quat(
        motion.rest_quat
    )
    T_parent_obj[:3, 3] = [drive_at(d, time) for d in (motion.x, motion.y, motion.z)]
    T_parent_obj[:3, 3] += T_parent_obj[:3, :3] @ np.asarray(motion.offset)
    return T_parent_obj


def local_deformation(motion: Motion, time: float) -> np.ndarray:
    """[3, 3]: stretch along z at constant volume, then lean."""
    stretch = drive_at(motion.stretch, time)
    squeeze = 1.0 / math.sqrt(stretch)
    deformation = np.diag([squeeze, squeeze, stretch])
    deformation[0] += drive_at(motion.lean, time) * deformation[2]
    return deformation


def poses_at(world: World, time: float) -> Poses:
    """Poses of all objects at a scene time in seconds."""
    placed: dict[str, np.ndarray] = {}
    rigid, deformed, full = [], [], []
    for obj in world.objects:
        own_time = time
        for warp in obj.warps:
            own_time = warp_time(warp, own_time)
        T_world_obj = local_pose(obj.motion, own_time)
        if obj.parent is not None:
            T_world_obj = placed[obj.parent] @ T_world_obj
        if obj.placement != IDENTITY:
            T_world_obj = np.asarray(obj.placement) @ T_world_obj
        placed[obj.name] = T_world_obj
        deformation = local_deformation(obj.motion, own_time)
        T_world_rest = T_world_obj.copy()
        T_world_rest[:3, :3] @= deformation
        rigid.append(T_world_obj)
        deformed.append(deformation)
        full.append(T_world_rest)
    empty = not world.objects
    return Poses(
        torch.from_numpy(np.zeros((0, 4, 4)) if empty else np.stack(rigid)),
        torch.from_numpy(np.zeros((0, 3, 3)) if empty else np.stack(deformed)),
        torch.from_numpy(np.zeros((0, 4, 4)) if empty else np.stack(full)),
    )
