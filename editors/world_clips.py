"""Clips of edited synthetic worlds for video editors: exact geometry, and no more colours than the sources show.

H W pixels, n points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editors.scene_clips import followed, loosened, nearly_seen
from editors.video import Carry, ClipFrame
from renderers import Cameras
from scene4d.cues import CueFrame, Prepared, TargetFrame, stream_cues
from scene4d.cues.exact import WorldGeometry, world_frame
from scene4d.worlds import World, poses_at, trace


def world_clip(
    geometry: WorldGeometry, prepared: Prepared, cameras: Cameras, times: Sequence[float], workers: int = 2
) -> Iterator[ClipFrame]:
    """The frames of an edited world. Only inserted things are rendered: anything else would be the truth."""
    loose = loosened(prepared)

    def camera(k: int) -> Cameras:
        return Cameras(cameras.world_to_cam[k : k + 1], cameras.K[k : k + 1], cameras.width, cameras.height)

    def target(k: int) -> TargetFrame:
        return world_frame(geometry, camera(k), times[k])

    def join(k: int, frame: TargetFrame, cue: CueFrame) -> ClipFrame:
        parts = trace(geometry.edited, camera(k), times[k], 1).parts[0]
        carry = carry_parts(geometry.edited, parts.reshape(-1).long(), times[k])
        return ClipFrame(replace(cue, rendered=None), parts.int(), carry, nearly=nearly_seen(loose, frame))

    return followed(lambda made: stream_cues(prepared, made, len(times), workers=workers), target, join)


def carry_parts(world: World, parts: Tensor, time: float) -> Carry:
    """How the surfaces move that pixels with these parts [H W] of the world show at `time`; -1 stands still."""
    T_rest_world = torch.linalg.inv(poses_at(world, time).T_world_rest)

    def carry(pixels: Tensor, points: Tensor, seconds: float) -> Tensor:
        own = parts[pixels]
        T = (poses_at(world, seconds).T_world_rest @ T_rest_world)[own.clamp(min=0)]
        moved = (T[:, :3, :3] @ points.double()[..., None])[..., 0] + T[:, :3, 3]
        return torch.where((own >= 0)[:, None], moved.to(points), points)

    return carry
