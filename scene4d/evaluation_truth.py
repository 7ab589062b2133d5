"""A scene against the truth of the world that its capture was made of: depth and optical flow.

The truth is traced from the exact cameras; the scene is rendered from the capture's, which may be noisy. Numbers are
given for all, for background (instance 0), for objects that move and for those that stand, and for each instance.

H W pixels, A measured values.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.captures import Capture, View
from scene4d.channels import render_channels
from scene4d.errors import InputError
from scene4d.evaluation_views import EvaluationOptions, cameras_of
from scene4d.scene import Scene4D
from scene4d.worlds import World, flow, load_truth, trace

if TYPE_CHECKING:
    from scene4d.edits import EditedScene


SOLID = 0.5  # alpha below which the scene has nothing there
PIXELS = 20_000  # of a view that errors are kept of at most, evenly chosen
STILL = 1e-6  # metres and radians that an object's pose may change by and still stand: rounding
ARRAYS = ("times", "world_to_cam", "T_world_obj", "deformation", "track_instances", "track_xyz", "track_visible")


@dataclass(frozen=True)
class WorldTruth:
    """What lies beside a synthetic capture (docs/captures.md)."""

    world: World
    arrays: dict[str, np.ndarray]

    @property
    def moving(self) -> list[int]:
        """Instances of which a part changes its pose or its shape within the captured times."""
        found = set()
        for k, obj in enumerate(self.world.objects):
            pose, shape = self.arrays["T_world_obj"][:, k], self.arrays["deformation"][:, k]
            if max(np.abs(pose - pose[0]).max(), np.abs(shape - shape[0]).max()) > STILL:
                found.add(obj.instance)
        return sorted(found - {0})


def find_truth(capture: Capture) -> WorldTruth | None:
    """The truth beside a capture; None where there is none. Raises InputError: it is damaged."""
    folder = capture.root
    if not (folder / "truth.json").is_file():
        return None
    if not zipfile.is_zipfile(folder / "truth.npz"):
        raise InputError(f"{folder}/truth.npz: is missing or damaged; write the capture again")
    try:
        world, arrays = load_truth(folder)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as e:
        raise InputError(f"{folder}/truth.json: cannot be read with its truth.npz: {str(e)[:120]}") from e
    missing = [name for name in ARRAYS if name not in arrays]
    if missing or not isinstance(world, World):
        raise InputError(f"{folder}/truth.npz: lacks {', '.join(missing) or 'the world'}; write the capture again")
    shape = (len(capture.tracks), capture.frames[-1] + 1)
    if arrays["world_to_cam"].shape[0] != shape[0] or len(arrays["times"]) < shape[1]:
        raise InputError(f"{folder}/truth.npz: is not of this capture of {shape[0]} cameras and {shape[1]} frames")
    return WorldTruth(world, arrays)


@torch.no_grad()
def compare_depth(
    scene: Scene4D | EditedScene, capture: Capture, views: Sequence[View], truth: WorldTruth, options: EvaluationOptions
) -> dict[str, Any]:
    """Median of |z - z_true| / z_true where both have a surface; "missing": share of true pixels with alpha < 0.5."""
    errors, ids, missing = [], [], []
    for view in views:
        seen = trace(truth.world, true_cameras(capture, view, truth), view.time, samples=1)
        found = render_channels(
            scene, cameras_of(capture, [view], scene), view.time, ("depth", "alpha"), backend=options.backend
        )
        depth, alpha = found["depth"][0].cpu(), found["alpha"][0].cpu()
        real = seen.depth[0] > 0
        solid = real & (alpha >= SOLID) & (depth > 0)
        errors.append(thinned(((depth - seen.depth[0]).abs() / seen.depth[0])[solid]))
        ids.append(thinned(seen.ids[0][solid]))
        missing.append(float((real & ~solid).sum() / real.sum().clamp_min(1)))
    parts = by_instance(torch.cat(errors), torch.cat(ids), truth, lambda e: {"median_relative": float(e.median())})
    return {"views": len(views), "missing": sum(missing) / len(missing), **parts}


@torch.no_grad()
def compare_flow(
    scene: Scene4D | EditedScene, capture: Capture, views: Sequence[View], truth: WorldTruth, options: EvaluationOptions
) -> dict[str, Any]:
    """Endpoint error in pixels of the flow to the camera's next frame, where the true surface stays visible."""
    followers = next_views(capture)
    errors, ids, count = [], [], 0
    for view in views:
        after = followers.get(view.key)
        if after is None:
            continue
        count += 1
        true_now, true_then = (true_cameras(capture, v, truth) for v in (view, after))
        real = flow(truth.world, true_now, view.time, true_then, after.time)
        seen = trace(truth.world, true_now, view.time, samples=1)
        now, then = (cameras_of(capture, [v], scene) for v in (view, after))
        found = render_channels(
            scene, now, view.time, ("flow",), t_next=after.time, next_cameras=then, backend=options.backend
        )["flow"][0].cpu()
        visible = real.visible[0]
        errors.append(thinned((found - real.flow[0]).norm(dim=-1)[visible]))
        ids.append(thinned(seen.ids[0][visible]))
    if not count:
        return {"views": 0, "all": None}
    parts = by_instance(
        torch.cat(errors), torch.cat(ids), truth, lambda e: {"mean": float(e.mean()), "median": float(e.median())}
    )
    return {"views": count, **parts}


def true_cameras(capture: Capture, view: View, truth: WorldTruth) -> Cameras:
    """The exact camera of a view, float64."""
    given = capture.cameras([view], torch.float64)
    pose = truth.arrays["world_to_cam"][list(capture.tracks).index(view.camera)]
    exact = torch.from_numpy(pose[min(view.frame, len(pose) - 1)]).double()
    return replace(given, world_to_cam=exact[None])


def next_views(capture: Capture) -> dict[tuple[str, int], View]:
    """The next view of the same camera, by View.key."""
    latest: dict[str, View] = {}
    found = {}
    for view in sorted(capture.views, key=lambda v: v.frame):
        if view.camera in latest:
            found[latest[view.camera].key] = view
        latest[view.camera] = view
    return found


def thinned(values: Tensor) -> Tensor:
    """At most about 20,000 of a view's values, evenly chosen."""
    return values[:: max(1, -(-len(values) // PIXELS))]


def by_instance(
    values: Tensor, ids: Tensor, truth: WorldTruth, summary: Callable[[Tensor], dict[str, Any]]
) -> dict[str, Any]:
    """Summaries of values [A, ...] by their instances [A]; None where a part has no values."""
    moving = torch.tensor(truth.moving, dtype=ids.dtype)
    is_moving = torch.isin(ids, moving)
    parts = {
        "all": torch.ones_like(is_moving),
        "background": ids == 0,
        "moving_objects": is_moving,
        "static_objects": (ids > 0) & ~is_moving,
    }

    def summed(part: Tensor) -> dict[str, Any] | None:
        return {"count": int(part.sum()), **summary(values[part])} if bool(part.any()) else None

    each = {str(i): summed(ids == i) for i in truth.world.instances}
    return {**{name: summed(part) for name, part in parts.items()}, "instances": each}
