"""The scene that a fit starts from: points of what stands still, points of what moves, and a rig from their tracks.

n points, N Gaussians, T frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scene4d.fitting.backgrounds import add_motion_masks, find_backgrounds
from scene4d.fitting.close import find_backdrops
from scene4d.fitting.clouds import Cloud, join, moving_cloud, static_cloud, thinned
from scene4d.fitting.densify import MOVING_SHARE
from scene4d.fitting.footage import Footage, scene_size
from scene4d.fitting.losses import HandleGraph, handle_graph
from scene4d.fitting.monocular import add_flow_masks, anchored
from scene4d.fitting.rigging import Rigging, knot_schedule, make_rigging
from scene4d.fitting.settings import FitSettings
from scene4d.fitting.settle import settle
from scene4d.fitting.tracking import PointTracks, track_points
from scene4d.scene import Scene4D

SH_C0 = 0.28209479177387814  # Y_0^0
OPACITY = 0.6
WINDOW_SOFTNESS = 0.02  # of the capture's duration
MOST_TRACKS = 4000
LEAST_SPANS = 6  # between knots: a short capture has few frames and much motion between them
STILL = 0.004  # of the scene's size: what moves less stands still


@dataclass(frozen=True, eq=False)
class Start:
    scene: Scene4D
    graph: HandleGraph | None
    size: float
    origin: float = 0.0  # seconds of the frame that what moves was found at


def start_scene(footage: Footage, settings: FitSettings, span: tuple[float, float], frame_seconds: float) -> Start:
    """Points become Gaussians. `span`: first and last second of the capture, also of frames that are held out."""
    generator = torch.Generator().manual_seed(settings.seed)
    budget = max(50, int(settings.max_gaussians * settings.first_gaussians))
    backgrounds = prepare(footage)
    static = static_cloud(footage, backgrounds, budget, generator)
    size = scene_size(footage, static.xyz)
    frame = canonical_frame(footage)
    moving = None if frame is None else moving_cloud(footage, frame, int(budget * MOVING_SHARE), generator)
    if moving is None or frame is None:
        return Start(make_scene(static, settings, None, span), None, size)
    static = thinned(static, budget - len(moving), generator)
    tracks = tracks_of(footage, moving, frame, generator)
    times = [footage.time(f) for f in tracks.frames]
    spacing = min(settings.knot_frames * frame_seconds, (span[1] - span[0]) / LEAST_SPANS)
    knots = knot_schedule(*span, spacing)
    rigging = make_rigging(tracks, times, knots, (settings.handles, settings.slots), STILL * size)
    graph = None
    if rigging is not None:
        graph = handle_graph(rigging.rig, rigging.tracks.xyz.permute(1, 0, 2).flatten(1))
        rigging = replace(rigging, rig=settle(rigging.rig, graph, rigging.tracks, generator))
    scene = make_scene(join([static, moving]), settings, _whole(rigging, tracks, moving, len(static)), span)
    return Start(scene, graph, size, footage.time(frame))


def prepare(footage: Footage) -> dict[str, Tensor]:
    """Find the backgrounds of cameras that stand still, and masks of what moves where the capture has none."""
    backgrounds = find_backgrounds(footage)
    add_motion_masks(footage, backgrounds)
    add_flow_masks(footage)
    footage.backdrops.update(find_backdrops(footage, backgrounds))
    return backgrounds


def canonical_frame(footage: Footage) -> int | None:
    """The training frame in the middle half of the capture whose masks are largest; None without masks."""
    areas: dict[int, float] = {}
    frames = footage.frames
    low, high = frames[len(frames) // 4], frames[(3 * len(frames)) // 4 if len(frames) > 1 else 0]
    for view in footage.views:
        ids = footage.instances(view)
        if ids is not None and low <= view.frame <= high:
            areas[view.frame] = areas.get(view.frame, 0.0) + float((ids > 0).float().mean())
    if not areas or max(areas.values()) == 0:
        return None
    return max(areas, key=lambda frame: (areas[frame], -frame))


def tracks_of(footage: Footage, moving: Cloud, frame: int, generator: torch.Generator) -> PointTracks:
    some = moving
    if len(moving) > MOST_TRACKS:
        some = moving.pick(torch.randperm(len(moving), generator=generator)[:MOST_TRACKS].sort().values)
    return anchored(footage, track_points(footage, some.xyz, some.instances, frame))


def _whole(rigging: Rigging | None, tracks: PointTracks, moving: Cloud, static: int) -> Rigging | None:
    """The rigging of all Gaussians: static ones follow nothing, untracked ones what the nearest tracked point does."""
    if rigging is None:
        return None
    near = nearest_of_instance(moving, tracks)
    M = rigging.slots.shape[1]
    slots = torch.cat([torch.full((static, M), -1, dtype=torch.int32), rigging.slots[near]])
    logits = torch.cat([torch.zeros(static, M), rigging.logits[near]])
    return replace(rigging, slots=slots, logits=logits)


def nearest_of_instance(cloud: Cloud, tracks: PointTracks) -> Tensor:
    """For each point of the cloud the nearest tracked point [n] of its instance, at the frame of origin."""
    near = torch.zeros(len(cloud), dtype=torch.int64)
    home = tracks.xyz[tracks.origin]
    for instance in cloud.instances.unique().tolist():
        mine = (cloud.instances == instance).nonzero()[:, 0]
        theirs = (tracks.instances == instance).nonzero()[:, 0]
        if len(theirs):
            for part in mine.split(4096):
                near[part] = theirs[torch.cdist(cloud.xyz[part], home[theirs]).argmin(1)]
    return near


def make_scene(cloud: Cloud, settings: FitSettings, rigging: Rigging | None, span: tuple[float, float]) -> Scene4D:
    """A Gaussian at each point, round, in its colour."""
    n, S = len(cloud), (settings.sh_degree + 1) ** 2
    sh = torch.zeros(n, S, 3)
    sh[:, 0] = (cloud.rgb - 0.5) / SH_C0
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    return Scene4D(
        means=cloud.xyz.float().contiguous(),
        quats=quats,
        log_scales=cloud.radius.clamp_min(1e-6).log()[:, None].repeat(1, 3),
        logit_opacities=torch.full((n,), math.log(OPACITY / (1 - OPACITY))),
        sh=sh,
        labels=torch.zeros(n, dtype=torch.int32),
        instances=cloud.instances.int(),
        rig=None if rigging is None else rigging.rig,
        handle_ids=None if rigging is None else rigging.slots,
        handle_logits=None if rigging is None else rigging.logits,
        **(windows(n, span) if settings.windows else {}),
    )


def windows(n: int, span: tuple[float, float]) -> dict[str, Tensor]:
    """Windows of n Gaussians that last a little longer than the capture does."""
    duration = max(span[1] - span[0], 1e-6)
    return {
        "t_on": torch.full((n,), span[0] - 0.1 * duration),
        "t_off": torch.full((n,), span[1] + 0.1 * duration),
        "log_softness": torch.full((n,), math.log(WINDOW_SOFTNESS * duration)),
    }
