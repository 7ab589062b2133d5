"""Clips of edited synthetic worlds for video editors, with the truth to compare with.

The geometry is exact. What a renderer would show of the edited scene is made of the source's pixels alone, so it knows
no more than the sources do: behind a removed object nothing, which is black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editors.scene_clips import followed, nearly_seen
from editors.video import Carry, ClipFrame, VideoEditRequest
from renderers import Cameras
from scene4d.cues import CueFrame, Prepared, TargetFrame, prepare, stream_cues
from scene4d.cues.exact import Faults, WorldGeometry, world_frame, world_sources
from scene4d.worlds import World, moving_rig, poses_at, trace

W, H = 96, 72


@dataclass(frozen=True, eq=False)
class WorldClip:
    """An edited world along a path."""

    geometry: WorldGeometry
    prepared: Prepared
    cameras: Cameras
    times: list[float]
    truth: Tensor  # [T, H, W, 3]

    def target(self, k: int) -> TargetFrame:
        found = world_frame(self.geometry, one(self.cameras, k), self.times[k])
        return replace(found, image=None)

    def request(self) -> VideoEditRequest:
        frames = followed(
            lambda target: stream_cues(self.prepared, target, len(self.times), workers=1), self.target, self.join
        )
        return VideoEditRequest(frames, len(self.times), 12.0)

    def join(self, k: int, target: TargetFrame, cue: CueFrame) -> ClipFrame:
        parts = trace(self.geometry.edited, one(self.cameras, k), self.times[k], 1).parts[0]
        carry = carry_parts(self.geometry.edited, parts.reshape(-1).long(), self.times[k])
        return ClipFrame(cue, parts.int(), carry, nearly=nearly_seen(self.prepared, target))


def one(cameras: Cameras, k: int) -> Cameras:
    return Cameras(cameras.world_to_cam[k : k + 1], cameras.K[k : k + 1], cameras.width, cameras.height)


def carry_parts(world: World, parts: Tensor, time: float) -> Carry:
    T_rest_world = torch.linalg.inv(poses_at(world, time).T_world_rest)

    def carry(pixels: Tensor, points: Tensor, seconds: float) -> Tensor:
        own = parts[pixels]
        T = (poses_at(world, seconds).T_world_rest @ T_rest_world)[own.clamp(min=0)]
        moved = (T[:, :3, :3] @ points.double()[..., None])[..., 0] + T[:, :3, 3]
        return torch.where((own >= 0)[:, None], moved.to(points), points)

    return carry


def source_cameras(world: World, frames: int) -> Cameras:
    rig = moving_rig(world, frames, W, H)
    return Cameras(rig.world_to_cam[0], rig.K.expand(frames, 3, 3), W, H)


def world_clip(
    world: World,
    edited: World,
    frames: int = 8,
    target: Cameras | None = None,
    faults: Faults | None = None,
    used: Sequence[int] | None = None,
) -> WorldClip:
    """A clip of the edited world from `target` (default: the source's cameras), with sources `used` (default: all)."""
    times = [k / (frames - 1) for k in range(frames)]
    cameras = source_cameras(world, frames)
    sources = world_sources(
        world, [one(cameras, k) for k in used or range(frames)], [times[k] for k in used or range(frames)], faults
    )
    target = cameras if target is None else target
    truth = torch.stack([trace(edited, one(target, k), t, 2).images[0] for k, t in enumerate(times)])
    geometry = WorldGeometry(world, edited, faults or Faults())
    return WorldClip(geometry, prepare(sources), target, times, truth)
