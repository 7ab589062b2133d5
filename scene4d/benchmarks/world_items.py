"""Items from synthetic worlds: sources as ordinary captures, exact truth, roles, depth, ids and motion.

The source is one camera that sweeps the stage's arc. Edits of things are seen from the source's own cameras; edits of
the camera begin at its last place, swing beyond it and come back, so that every place but the farthest is seen twice.

T frames, H W pixels.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.benchmarks.world_edits import Asked, Scene
from scene4d.files.atomic import json_bytes, make_folder, read_json, write_json
from scene4d.metrics.benchmark_items import Item
from scene4d.metrics.benchmark_writing import ItemData, write_item
from scene4d.metrics.region_types import ASSET, Revisit
from scene4d.paths import CameraPath
from scene4d.worlds import (
    CaptureOptions,
    Stage,
    World,
    arc_rig,
    capture_world,
    edited,
    flow,
    moving_rig,
    points_at,
    poses_at,
    sample_points,
    trace,
)
from scene4d.worlds.capturing import write_points
from scene4d.worlds.rigs import arc_pose, intrinsics
from scene4d.worlds.roles import true_roles
from scene4d.worlds.serial import to_json
from scene4d.worlds.tracing import surface_colors

REVISIT_GAP = 3  # frames between two visits at least
ASSET_POINTS = 6000


@dataclass(frozen=True)
class Size:
    """Of all pictures."""

    width: int = 160
    height: int = 120
    frames: int = 12
    samples: int = 2  # rays a pixel along each axis

    def __post_init__(self) -> None:
        for name, least in (("width", 16), ("height", 16), ("frames", 4), ("samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def write_source(folder: Path, scene: Scene, size: Size) -> None:
    """The capture of a scene, all frames of it for fitting. A folder that is there is left alone."""
    if folder.exists():
        return
    make_folder(folder.parent)
    rig = moving_rig(scene.world, size.frames, size.width, size.height)
    capture_world(scene.world, rig, folder, CaptureOptions(frames=size.frames, samples=size.samples))
    data = read_json(folder / "cameras.json")
    data.pop("split", None)  # nothing is held out: the truth is that of the edit
    write_json(folder / "cameras.json", data)
    for name in ("truth.json", "truth.npz"):  # editors shall not see it
        (folder / name).unlink()


def write_world_item(benchmark: Path, scene: Scene, asked: Asked, size: Size) -> str:
    """Write the item, and its source where that is not yet there. An item that is there is left alone: its name."""
    name = f"{scene.name}.{asked.kind}.{asked.magnitude}"
    folder, source = benchmark / "items" / name, benchmark / "sources" / scene.name
    write_source(source, scene, size)
    if folder.exists():
        return name
    rate = (size.frames - 1) / scene.world.duration
    times = tuple(k / rate for k in range(size.frames))
    cameras = source_cameras(scene.world, size)
    target = _swing(scene.world, asked.camera_degrees, size) if asked.kind == "camera" else cameras
    revisits = _revisit_pairs(size.frames) if asked.kind == "camera" else ()
    item = Item(
        folder=folder,
        name=name,
        scene=scene.name,
        kind=asked.kind,
        magnitude=asked.magnitude,
        origin="world",
        instruction=asked.instruction,
        source=source,
        frames=size.frames,
        width=size.width,
        height=size.height,
        fps=rate,
        times=times,
        edit=asked.plain,
        edited_instances=asked.placed,
        revisits=revisits,
    )
    after = edited(scene.world, asked.edits)
    views = [(one(cameras, k), t) for k, t in enumerate(times)]
    data = _traced(scene.world, after, views, target, item, size.samples)
    extra = {"world.json": json_bytes({"source": to_json(scene.world), "edited": to_json(after)})}
    if asked.kind == "insert":
        extra["asset.ply"] = asset_bytes(after, benchmark)
    write_item(item, data, extra)
    return name


def source_cameras(world: World, size: Size) -> Cameras:
    """One a frame."""
    rig = moving_rig(world, size.frames, size.width, size.height)
    return Cameras(rig.world_to_cam[0], rig.K.expand(size.frames, 3, 3), size.width, size.height)


def one(cameras: Cameras, k: int) -> Cameras:
    return Cameras(cameras.world_to_cam[k : k + 1], cameras.K[k : k + 1], cameras.width, cameras.height)


def _swing(world: World, degrees: float, size: Size) -> Cameras:
    """From the end of the source's arc outwards by `degrees`, rising by a third of it, and back."""
    stage = world.stage
    poses = []
    for k in range(size.frames):
        out = math.sin(math.pi * k / (size.frames - 1))
        poses.append(arc_pose(stage, stage.degrees + degrees * out, degrees / 3 * out))
    K = intrinsics(stage, size.width, size.height).expand(size.frames, 3, 3)
    return Cameras(torch.from_numpy(np.stack(poses)), K, size.width, size.height)


def _revisit_pairs(frames: int) -> tuple[tuple[int, int], ...]:
    """The swing is the same forth and back."""
    return tuple((k, frames - 1 - k) for k in range(frames // 2) if frames - 1 - 2 * k >= REVISIT_GAP)


def _traced(
    before: World, after: World, views: list[tuple[Cameras, float]], target: Cameras, item: Item, samples: int
) -> ItemData:
    known = {o.name for o in before.objects}
    inserted = {o.name for o in after.objects if o.name not in known and not o.origin}
    truth, stale, roles, ids, depth, flows, visible = ([] for _ in range(7))
    for t, time in enumerate(item.times):
        camera = one(target, t)
        seen = trace(after, camera, time, samples)
        truth.append(seen.images[0])
        depth.append(seen.depth[0])
        ids.append(seen.ids[0])
        stale.append(trace(before, camera, time, samples).images[0])
        found = true_roles(before, after, camera, time, *zip(*views, strict=True), inserted=inserted)
        roles.append(torch.where(found.asset, ASSET, found.roles).to(torch.uint8))
        last = max(t - 1, 0)
        back = flow(after, camera, time, one(target, last), item.times[last])
        flows.append(back.flow[0])
        visible.append(back.visible[0])
    revisits = [_revisit(after, target, item, a, b) for a, b in item.revisits]
    path = CameraPath(
        times=torch.tensor(item.times, dtype=torch.float64),
        world_to_cam=target.world_to_cam,
        K=target.K,
        width=item.width,
        height=item.height,
        scene_times=torch.tensor(item.times, dtype=torch.float64),
    )
    return ItemData(
        truth=torch.stack(truth),
        roles=torch.stack(roles),
        ids=torch.stack(ids),
        depth=torch.stack(depth),
        flow=torch.stack(flows),
        visible=torch.stack(visible),
        stale=torch.stack(stale),
        revisits=tuple(revisits),
        path=path,
    )


def _revisit(world: World, target: Cameras, item: Item, earlier: int, later: int) -> Revisit:
    found = flow(world, one(target, later), item.times[later], one(target, earlier), item.times[earlier])
    return Revisit(earlier, later, found.flow[0], found.visible[0])


def asset_bytes(world: World, folder: Path) -> bytes:
    """The inserted thing as points with colours, a binary PLY: in the world, from all sides but below."""
    objects = tuple(o for o in world.objects if o.name == "asset")
    poses = poses_at(World("asset", objects, world.stage), 0.0).T_world_rest
    center = tuple(poses[0, :3, 3].tolist())
    around = Stage((center[0], center[1], center[2]), distance=3.0, degrees=150.0, elevation=25.0)
    alone = World("asset", objects, around, light=world.light)
    points = sample_points(alone, arc_rig(alone, 240, 240).at(0), 0.0, ASSET_POINTS)
    colors: Tensor = surface_colors(alone, poses[0], 0, points.rest)
    temporary = folder / ".asset.ply.tmp"
    write_points(temporary, points_at(alone, points, 0.0).numpy(), (colors * 255).round().to(torch.uint8).numpy())
    data = temporary.read_bytes()
    temporary.unlink()
    return data


def world_of(item: Item) -> dict:
    """world.json of an item as it is."""
    return json.loads((item.folder / "world.json").read_text())
