"""`cue_classical`: the editor `classical` on items of the region benchmark (docs/benchmark.md).

As the baseline `cue_inpaint` it has the source's pictures and the exact geometry of the item's worlds, and may show of
the edited world only what the source does; what both differ by is what completion is worth.
"""

from __future__ import annotations

import torch
from torch import Tensor

from editors.classical.editor import ClassicalEditor
from editors.video import VideoEditRequest
from editors.world_clips import world_clip
from renderers import Cameras
from scene4d.benchmarks.cue_baseline import item_sources, item_worlds
from scene4d.cues import prepare
from scene4d.cues.exact import WorldGeometry
from scene4d.metrics.benchmark_items import Item
from scene4d.path_files import load_path


def cue_classical(item: Item) -> Tensor:
    """uint8 [T, H, W, 3]. Raises InputError: the item is not of a world, or its source lacks depth or masks."""
    source, edited = item_worlds(item)
    known = {o.name for o in source.objects}
    assets = frozenset(o.name for o in edited.objects if o.name not in known and not o.origin)
    path = load_path(item.folder / "camera_path.json")
    cameras = Cameras(path.world_to_cam, path.K, path.width, path.height)
    geometry = WorldGeometry(source, edited, assets=assets)
    frames = world_clip(geometry, prepare(item_sources(item)), cameras, item.times)
    result = ClassicalEditor().edit(VideoEditRequest(frames, item.frames, item.fps))
    return torch.stack([(f.image.clamp(0, 1) * 255).round().to(torch.uint8) for f in result.frames])
