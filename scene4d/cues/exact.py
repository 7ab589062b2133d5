"""Source views and target frames of synthetic worlds: exact geometry, or with the faults of an estimated one.

H W pixels, S views, O objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.cues.sources import SourceViews
from scene4d.cues.target import BackMap, MapsAt, TargetFrame
from scene4d.worlds.correspondence import counterparts
from scene4d.worlds.motions import poses_at, warp_time
from scene4d.worlds.noise import Noise, noisy_depth
from scene4d.worlds.tracing import trace
from scene4d.worlds.types import Truth, World


@dataclass(frozen=True)
class Faults:
    """What an estimated geometry is like; 0 leaves the truth."""

    depth: float = 0.0  # relative standard deviation, varying slowly over the picture
    bleed: bool = False  # depth at jumps is the mean of the 3x3 pixels, as smooth estimates have it
    track: float = 0.0  # metres, standard deviation of each moving object's shift at each time
    seed: int = 0


@dataclass(frozen=True, eq=False)
class WorldGeometry:
    """A source world, an edited one, and the faults with which they are seen."""

    source: World
    edited: World
    faults: Faults = field(default_factory=Faults)
    assets: frozenset[str] = frozenset()  # names of inserted objects
    changed: frozenset[int] = frozenset()  # instances whose look was changed


def world_sources(
    world: World, cameras: Sequence[Cameras], times: Sequence[float], faults: Faults | None = None, samples: int = 2
) -> SourceViews:
    """A picture of each of `cameras` (one camera each) at its time, with depth and instances."""
    faults = faults or Faults()
    truths = [trace(world, c, t, samples) for c, t in zip(cameras, times, strict=True)]
    depth = [faulty_depth(truth.depth[0], faults, k) for k, truth in enumerate(truths)]
    return SourceViews(
        images=torch.cat([(truth.images * 255).round().to(torch.uint8) for truth in truths]),
        depth=torch.stack(depth),
        instances=torch.cat([truth.ids for truth in truths]).to(torch.int16),
        world_to_cam=torch.cat([c.world_to_cam for c in cameras]).float(),
        K=torch.cat([c.K for c in cameras]).float(),
        times=torch.tensor(list(times), dtype=torch.float64),
        names=tuple(("world", k) for k in range(len(cameras))),
    )


def faulty_depth(depth: Tensor, faults: Faults, key: int) -> Tensor:
    """[H, W] with the faults; `key` seeds the picture."""
    found = depth.numpy()
    if faults.depth > 0:
        found = noisy_depth(found, Noise(depth=faults.depth), np.random.default_rng([faults.seed, key]))
    if faults.bleed:
        blurred = cv2.blur(found, (3, 3), borderType=cv2.BORDER_REPLICATE)
        around = np.ones((3, 3), np.uint8)
        jump = cv2.dilate(found, around) > 1.1 * cv2.erode(found, around)
        found = np.where(jump & (found > 0), blurred, found)
    return torch.from_numpy(np.ascontiguousarray(found))


def world_frame(
    geometry: WorldGeometry, camera: Cameras, time: float, key: int = 1 << 20, truth: Truth | None = None
) -> TargetFrame:
    """The edited world from one camera. `key` seeds the faults of its depth; `truth` is its trace, if it is there."""
    truth = trace(geometry.edited, camera, time, 1) if truth is None else truth
    source, edited = geometry.source, geometry.edited
    twin = torch.tensor([*counterparts(edited, source), -1])
    parts = truth.parts[0].long()  # -1, nothing, is the last row of each table
    ids = torch.tensor([o.instance for o in source.objects] + [0])[twin[parts]]
    inserted = torch.tensor([o.name in geometry.assets for o in edited.objects] + [False])[parts]
    instances = torch.tensor([o.instance for o in edited.objects] + [0])[parts]
    object_times = torch.tensor([source_time(edited, source, k, time) for k in range(len(edited.objects))] + [time])
    soft = [o.motion.stretch.amplitude != 0 or o.motion.lean.amplitude != 0 for o in edited.objects]
    return TargetFrame(
        camera=camera,
        time=time,
        depth=faulty_depth(truth.depth[0], geometry.faults, key),
        alpha=(truth.depth[0] > 0).float(),
        instances=torch.where(inserted, -1, ids).to(torch.int16),
        moving=(instances > 0) & ~inserted,
        back_map=_back_map(geometry, parts.reshape(-1), twin, time),
        source_times=object_times.float()[parts],
        deforming=torch.tensor([*soft, False])[parts],
        asset=inserted,
        changed=torch.isin(instances, torch.tensor(sorted(geometry.changed), dtype=instances.dtype)),
        image=truth.images[0],
    )


def source_time(edited: World, source: World, k: int, time: float) -> float:
    """When the source showed object k of the edited world as it is at `time`: its edits' warps, the later ones
    first."""
    twin = counterparts(edited, source)[k]
    own = edited.objects[k].warps
    added = len(own) - (len(source.objects[twin].warps) if twin >= 0 else 0)
    for warp in own[:added]:
        time = warp_time(warp, time)
    return time


def _back_map(geometry: WorldGeometry, parts: Tensor, twin: Tensor, time: float) -> BackMap:
    T_rest_world = torch.linalg.inv(poses_at(geometry.edited, time).T_world_rest)
    objects = twin[:-1]  # of the source, by object of the edited world

    def back_map(pixels: Tensor) -> MapsAt:
        own = parts[pixels].clamp(min=0)

        def maps_at(source_seconds: float) -> Tensor:
            T = poses_at(geometry.source, source_seconds).T_world_rest[objects.clamp(min=0)] @ T_rest_world
            T[:, :3, 3] += _jitter(geometry, source_seconds)[objects]
            table = T[:, :3].float().permute(1, 2, 0).reshape(12, -1)
            return table.index_select(1, own).view(3, 4, -1)

        return maps_at

    return back_map


def _jitter(geometry: WorldGeometry, source_seconds: float) -> Tensor:
    """[O, 3] metres by which each instance of the source is thought to be elsewhere at a time; 0 for the background."""
    shifts = torch.zeros(len(geometry.source.objects) + 1, 3, dtype=torch.float64)
    if geometry.faults.track > 0:
        for k, o in enumerate(geometry.source.objects):
            if o.instance:
                random = np.random.default_rng([geometry.faults.seed, o.instance, round(abs(source_seconds) * 1e6)])
                shifts[k] = torch.from_numpy(random.normal(size=3) * geometry.faults.track)
    return shifts
