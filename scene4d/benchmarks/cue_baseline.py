"""`cue_inpaint`: the cue where something was observed, OpenCV's inpainting frame by frame where nothing was.

The cue comes from the source's own pictures, depth, masks and cameras; the geometry of the target is the exact one of
the item's worlds. So it shows what observed pixels alone are worth, and it is for items of worlds only.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.benchmarks.baselines import source_views
from scene4d.benchmarks.world_items import one, world_of
from scene4d.cues import SourceViews, make_cue, prepare
from scene4d.cues.exact import WorldGeometry, world_frame
from scene4d.errors import InputError
from scene4d.metrics.benchmark_items import Item
from scene4d.path_files import load_path
from scene4d.worlds import World
from scene4d.worlds.serial import from_json

RADIUS = 4  # pixels that inpainting looks at around a hole


def cue_inpaint(item: Item) -> Tensor:
    """uint8 [T, H, W, 3]. Raises InputError: the item is not of a world, or its source lacks depth or masks."""
    source, edited = item_worlds(item)
    known = {o.name for o in source.objects}
    assets = frozenset(o.name for o in edited.objects if o.name not in known and not o.origin)
    geometry = WorldGeometry(source, edited, assets=assets)
    prepared = prepare(item_sources(item))
    path = load_path(item.folder / "camera_path.json")
    cameras = Cameras(path.world_to_cam, path.K, path.width, path.height)
    frames = []
    for t, time in enumerate(item.times):
        cue = make_cue(prepared, world_frame(geometry, one(cameras, t), time))
        image = (cue.image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
        hole = (~(cue.observed | cue.asset)).numpy().astype(np.uint8)
        filled = cv2.inpaint(np.ascontiguousarray(image), hole, RADIUS, cv2.INPAINT_TELEA) if hole.any() else image
        frames.append(torch.from_numpy(filled))
    return torch.stack(frames)


def item_worlds(item: Item) -> tuple[World, World]:
    """The source world and the edited one. Raises InputError: the item is not of a world."""
    file = item.folder / "world.json"
    if not file.is_file():
        raise InputError(f"{item.folder}: has no world.json, baselines of cues are for items of worlds")
    try:
        source, edited = (from_json(world_of(item)[name]) for name in ("source", "edited"))
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{file}: is damaged: {str(e)[:80]}") from e
    if not isinstance(source, World) or not isinstance(edited, World):
        raise InputError(f"{file}: source and edited must be worlds")
    return source, edited


def item_sources(item: Item) -> SourceViews:
    """What cues need of the source. Raises InputError: it lacks cameras, depth or masks."""
    capture, views = source_views(item)
    depth, labels = [capture.depth(v) for v in views], [capture.labels(v) for v in views]
    if any(d is None for d in depth) or any(m is None for m in labels) or any(v.K is None for v in views):
        raise InputError(f"{item.source}: the cue baseline needs cameras, depth and masks of every frame")
    cameras = capture.cameras(views)
    return SourceViews(
        images=torch.stack([capture.image_u8(v) for v in views]),
        depth=torch.stack([d for d in depth if d is not None]),
        instances=torch.stack([m for m in labels if m is not None]).to(torch.int16),
        world_to_cam=cameras.world_to_cam.float(),
        K=cameras.K.float(),
        times=torch.tensor([v.time for v in views], dtype=torch.float64),
        names=tuple(v.key for v in views),
    )
