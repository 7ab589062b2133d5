"""Tracks of a scene against those of the world that its capture was made of.

A track is asked for at a pixel of a view. The surface there, at the rendered depth, moves with the Gaussians that are
seen there: from then to t each moves its surroundings rigidly, x' - x = A_i x + b_i (`scene4d.channels` on flow), and A
and b are blended as colours are and divided by alpha. Blended centres of the Gaussians would not do: they lie where
the nearest of the splats under the pixel are, up to several pixels away, also in a scene that is exact.

T times, N Gaussians or tracks, n queried pixels, A measured values.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from renderers.quaternions import conjugate, multiply, rotate, unit
from scene4d.captures import Capture, View
from scene4d.evaluation_truth import SOLID, WorldTruth, by_instance, true_cameras
from scene4d.evaluation_views import EvaluationOptions, cameras_of
from scene4d.scene import Scene4D
from scene4d.worlds.capturing import instance_size

if TYPE_CHECKING:
    from scene4d.edits import EditedScene


CHANNEL_VALUES = 1 << 24  # floats of the maps that are rendered at a time
MAX_CHANNELS = 48  # of one pass: each is a float a pixel and a Gaussian


@torch.no_grad()
def compare_tracks(
    scene: Scene4D | EditedScene,
    capture: Capture,
    trained: Collection[tuple[str, int]],
    truth: WorldTruth,
    options: EvaluationOptions,
) -> dict[str, Any]:
    """Distance between true and predicted tracks over all captured frames.

    A track is queried at its pixel in the earliest fitted view that sees it (else in the earliest view). Where alpha is
    below 0.5 there the track is lost; lost tracks are counted and have no distance. Medians are over tracks and times.
    """
    frames = capture.frames
    paths, alpha = predict_tracks(scene, capture, trained, truth, options)  # [T, N, 3], [N]
    real = torch.from_numpy(truth.arrays["track_xyz"][frames]).double()
    errors = (paths - real).norm(dim=-1).T  # [N, T]
    ids = torch.from_numpy(truth.arrays["track_instances"]).long()
    sizes = torch.full((len(ids),), torch.nan, dtype=torch.float64)
    for instance in truth.world.instances:
        sizes[ids == instance] = instance_size(truth.world, instance)
    queried = ~alpha.isnan()
    lost = alpha < SOLID
    table = torch.cat([errors, (errors / sizes[:, None]), lost[:, None]], 1)[queried]  # [A, 2 T + 1]
    T = len(frames)

    def summary(rows: Tensor) -> dict[str, Any]:
        kept = rows[rows[:, -1] == 0]
        found: dict[str, Any] = {"lost": float(rows[:, -1].mean()), "median": None, "median_relative": None}
        if len(kept):
            found["median"] = float(kept[:, :T].median())
            relative = kept[:, T : 2 * T].nanmedian()
            found["median_relative"] = None if relative.isnan() else float(relative)
        return found

    parts = by_instance(table, ids[queried], truth, summary)
    return {"tracks": len(ids), "never_seen": int((~queried).sum()), **parts}


def predict_tracks(
    scene: Scene4D | EditedScene,
    capture: Capture,
    trained: Collection[tuple[str, int]],
    truth: WorldTruth,
    options: EvaluationOptions,
) -> tuple[Tensor, Tensor]:
    """Predicted paths [T, N, 3] float64 at the capture's frames, and alpha [N] where they were queried (NaN: never)."""
    frames = capture.frames
    time_of = {view.frame: view.time for view in capture.views}
    visible = truth.arrays["track_visible"]
    N = visible.shape[-1]
    paths = torch.full((len(frames), N, 3), torch.nan, dtype=torch.float64)
    alpha = torch.full((N,), torch.nan, dtype=torch.float64)
    names = list(capture.tracks)
    order = sorted(capture.views, key=lambda v: (v.key not in trained, v.frame, names.index(v.camera)))
    waiting = torch.ones(N, dtype=torch.bool)
    for view in order:
        rows = (waiting & torch.from_numpy(visible[view.frame, names.index(view.camera)])).nonzero()[:, 0]
        if not len(rows):
            continue
        waiting[rows] = False
        xyz = torch.from_numpy(truth.arrays["track_xyz"][view.frame]).double()[rows]
        pixels = project(true_cameras(capture, view, truth), xyz)
        times = [time_of[frame] for frame in frames]
        paths[:, rows], alpha[rows] = paths_at_pixels(scene, capture, view, pixels, times, options.backend)
        if not waiting.any():
            break
    return paths, alpha


def project(cameras: Cameras, xyz: Tensor) -> Tensor:
    """Pixels [n, 2] of world points [n, 3] in one camera."""
    local = xyz @ cameras.world_to_cam[0, :3, :3].T + cameras.world_to_cam[0, :3, 3]
    seen = local @ cameras.K[0].T
    return seen[:, :2] / seen[:, 2:]


def paths_at_pixels(
    scene: Scene4D | EditedScene, capture: Capture, view: View, pixels: Tensor, times: Sequence[float], backend: str
) -> tuple[Tensor, Tensor]:
    """Where the surface seen at pixels [n, 2] of a view is at `times`: [T, n, 3] float64 world, and its alpha [n]."""
    cameras = cameras_of(capture, [view], scene)
    now = scene.at(view.time)
    most = max(1, min(MAX_CHANNELS, CHANNEL_VALUES // (view.width * view.height)) // 12)
    parts, alpha = [], torch.zeros(len(pixels), dtype=torch.float64)
    for start in range(0, len(times), most):
        motions = torch.stack([displacements(now, scene.at(t)) for t in times[start : start + most]], 1)  # [N, T', 12]
        found = rasterize(now, cameras, features=motions.flatten(1), backend=backend)
        assert found.features is not None
        weight = found.alpha[0, ..., None]
        maps = torch.cat([found.features[0], found.depth[0, ..., None] * weight, weight], -1)
        values = bilinear(maps.cpu().double(), pixels)  # [n, 12 T' + 2]
        alpha = values[:, -1]
        values = values[:, :-1] / alpha[:, None].clamp_min(1e-12)
        points = lifted(capture.cameras([view], torch.float64), pixels, values[:, -1])  # [n, 3]
        A, b = values[:, :-1].reshape(len(pixels), -1, 12).split([9, 3], -1)
        moved = (A.unflatten(-1, (3, 3)) @ points[:, None, :, None])[..., 0] + b  # [n, T', 3]
        parts.append((points[:, None] + moved).movedim(1, 0))
    return torch.cat(parts), alpha


def displacements(now: Gaussians, after: Gaussians) -> Tensor:
    """R - 1 (row by row) and mu' - R mu of every Gaussian, [N, 12]: x' - x = A x + b around it."""
    turn = multiply(unit(after.quats), conjugate(unit(now.quats)))
    axes = torch.eye(3, dtype=turn.dtype, device=turn.device)
    A = torch.stack([rotate(turn, axis.expand_as(now.means)) - axis for axis in axes], -1)  # [N, 3, 3]
    b = after.means - now.means - (A @ now.means[..., None])[..., 0]  # mu' - R mu, without cancellation for A = 0
    return torch.cat([A.flatten(1), b], 1)


def lifted(cameras: Cameras, pixels: Tensor, depth: Tensor) -> Tensor:
    """World points [n, 3] at pixels [n, 2] and depths [n] of one camera."""
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[:, :1])], -1)
    local = homogeneous @ torch.linalg.inv(cameras.K[0]).T * depth[:, None]
    return (local - cameras.world_to_cam[0, :3, 3]) @ cameras.world_to_cam[0, :3, :3]


def bilinear(maps: Tensor, pixels: Tensor) -> Tensor:
    """Values [n, F] of maps [H, W, F] at pixels [n, 2] (centres at +0.5), the border's beyond the outermost centres."""
    size = pixels.new_tensor([maps.shape[1], maps.shape[0]])
    grid = (pixels / size * 2 - 1)[None, :, None]
    found = F.grid_sample(maps.movedim(-1, 0)[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, :, 0].T
