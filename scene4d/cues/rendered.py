"""Geometry of fitted scenes: target frames of an edited scene, and what source cameras see of the fitted one.

A surface point X of the edited world that row i of the edited scene shows at scene time t was, at source time s,

    X_s = mu(s) + R(s) R(theta)^T (A^-1 X - mu(theta))

where mu and R are the centre and the rotation of the row's parent in the fitted scene, A the similarity and theta the
source time that its edits give it at t. The row of a pixel is the one with the largest weight in it.

N rows of the fitted scene, N' of the edited one, H W pixels, S source views.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from renderers.quaternions import conjugate, multiply, rotate, unit
from scene4d.cues.sources import SourceViews
from scene4d.cues.target import TargetFrame
from scene4d.edits import EditedScene
from scene4d.scene import Scene4D

SAME_SIDE = 0.05  # relative difference up to which mean and median depth are of one surface
MOVES = 1e-9  # scene units: residual motion below this stands still
POSES = 64  # of the moving rows, kept


@dataclass(frozen=True)
class Look:
    """What one camera sees of Gaussians."""

    image: Tensor  # [H, W, 3]
    depth: Tensor  # [H, W] z, 0 = none
    alpha: Tensor  # [H, W]
    rows: Tensor  # [H, W] int64 of the largest weight, -1 = none


def look_at_gaussians(
    gaussians: Gaussians, camera: Cameras, background: Tensor | None = None, backend: str = "auto"
) -> Look:
    """Picture, depth and rows from one camera.

    Depth is the mean one where it agrees with the median, which is that of a single Gaussian's centre and has steps; at
    outlines, where the mean is of neither side, the median.
    """
    like = gaussians.means
    camera = Cameras(camera.world_to_cam.to(like), camera.K.to(like), camera.width, camera.height)
    found = rasterize(gaussians, camera, background=background, want=("median_depth", "top"), backend=backend)
    assert found.median_depth is not None and found.top_id is not None
    mean, median = found.depth[0], found.median_depth[0]
    agree = (mean - median).abs() <= SAME_SIDE * median
    return Look(found.image[0], torch.where(agree, mean, median), found.alpha[0], found.top_id[0].long())


class SourcePoses:
    """Centres and rotations of the moving rows of a fitted scene at times; keeps those asked for last. Many threads may
    ask."""

    def __init__(self, scene: Scene4D) -> None:
        self.scene = scene
        self.moves = moving_rows(scene)  # [N] bool
        self.place = torch.where(self.moves, self.moves.cumsum(0) - 1, -1)  # [N] row -> position among the moving ones
        self._part = scene.subset(self.moves)
        self._kept: OrderedDict[float, tuple[Tensor, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, time: float) -> tuple[Tensor, Tensor]:
        """Centres [M, 3] and unit quaternions [M, 4] of the M moving rows."""
        with self._lock:
            if time in self._kept:
                self._kept.move_to_end(time)
                return self._kept[time]
        now = self._part.at(time)
        found = now.means, unit(now.quats)
        with self._lock:
            self._kept[time] = found
            while len(self._kept) > POSES:
                self._kept.popitem(last=False)
        return found


def moving_rows(scene: Scene4D) -> Tensor:
    """bool [N]: follows a handle, or has residual motion."""
    moves = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
    if scene.handle_ids is not None:
        moves |= (scene.handle_ids >= 0).any(1)
    if scene.residuals is not None and scene.residuals.shape[1]:
        moves |= scene.residuals.abs().amax((1, 2)) > MOVES
    return moves


def deforming_rows(scene: Scene4D) -> Tensor:
    """bool [N]: follows several handles, or has residual motion: its surroundings need not move rigidly."""
    soft = torch.zeros(len(scene), dtype=torch.bool, device=scene.means.device)
    if scene.handle_ids is not None:
        soft |= (scene.handle_ids >= 0).sum(1) > 1
    if scene.residuals is not None and scene.residuals.shape[1]:
        soft |= scene.residuals.abs().amax((1, 2)) > MOVES
    return soft


class SceneFrames:
    """Target frames of an edited scene. A plain scene is one without edits."""

    def __init__(self, edited: EditedScene | Scene4D, background: Tensor | None = None, backend: str = "auto") -> None:
        self.edited = EditedScene(edited) if isinstance(edited, Scene4D) else edited
        self.source = self.edited.source
        self.background, self.backend = background, backend
        self._poses = SourcePoses(self.source)
        self._soft = deforming_rows(self.source)

    def frame(self, camera: Cameras, time: float) -> TargetFrame:
        """The geometry of one frame from one camera."""
        with torch.no_grad():
            look = look_at_gaussians(self.edited.at(time), camera, self.background, self.backend)
            return self._frame(camera, time, look)

    def _frame(self, camera: Cameras, time: float, look: Look) -> TargetFrame:
        origin = self.edited.provenance(time)
        rows = look.rows.clamp(min=0)
        none = look.rows < 0
        parents = origin.parents[rows].masked_fill(none, -1)
        known = parents.clamp(min=0)
        identity = torch.eye(3, device=rows.device, dtype=origin.rotations.dtype)
        placed = (
            ((origin.rotations - identity).abs().amax((1, 2)) > 0)
            | (origin.translations != 0).any(1)
            | (origin.scales != 1)
        )
        asset = (parents < 0) & ~none
        found = parents >= 0
        instances = torch.where(found, self.source.instances[known], torch.where(asset, -1, 0))
        return TargetFrame(
            camera=camera,
            time=time,
            depth=look.depth,
            alpha=look.alpha,
            instances=instances.to(torch.int16),
            moving=found & (self._poses.moves[known] | placed[rows]),
            back_map=self._back_map(rows.reshape(-1), known.reshape(-1), origin),
            source_times=torch.where(found, origin.source_times[rows].float(), time),
            deforming=found & self._soft[known],
            asset=asset,
            changed=found & origin.appearance_changed[rows],
            image=look.image.clamp(0, 1),
        )

    def _back_map(self, rows: Tensor, parents: Tensor, origin):
        poses = self._poses

        def back_map(pixels: Tensor, points: Tensor, source_seconds: float) -> Tensor:
            row, parent = rows[pixels], parents[pixels]
            shifted = (points - origin.translations[row]) / origin.scales[row][:, None]
            x = (origin.rotations[row].mT @ shifted[..., None])[..., 0]
            place = poses.place[parent]
            theta = origin.source_times[row]
            to_means, to_quats = poses.at(source_seconds)
            for time in torch.unique(theta[place >= 0]).tolist():
                own = ((place >= 0) & (theta == time)).nonzero()[:, 0]
                at = place[own]
                means, quats = poses.at(time)
                turn = multiply(to_quats[at], conjugate(quats[at]))
                x[own] = to_means[at] + rotate(turn, x[own] - means[at])
            return x

        return back_map


def scene_source_maps(
    scene: Scene4D, cameras: Sequence[Cameras], times: Sequence[float], backend: str = "auto"
) -> tuple[list[Tensor], list[Tensor]]:
    """Depth [H, W] and instances [H, W] int16 of a fitted scene from source cameras (one each) at their times."""
    depths, instances = [], []
    with torch.no_grad():
        for camera, time in zip(cameras, times, strict=True):
            look = look_at_gaussians(scene.at(time), camera, None, backend)
            depths.append(torch.where(look.alpha >= 0.5, look.depth, 0.0))
            ids = scene.instances[look.rows.clamp(min=0)].masked_fill(look.rows < 0, 0)
            instances.append(ids.to(torch.int16))
    return depths, instances


def scene_sources(
    scene: Scene4D,
    images: Sequence[Tensor],  # [H, W, 3] uint8
    cameras: Sequence[Cameras],  # one each
    times: Sequence[float],
    names: Sequence[tuple[str, int]] = (),
    valid: Sequence[Tensor | None] | None = None,  # [H, W] bool
) -> SourceViews:
    """Source views whose depth and instances come from the fitted scene. Pictures may differ in size."""
    depths, instances = scene_source_maps(scene, cameras, times)
    height, width = max(c.height for c in cameras), max(c.width for c in cameras)

    def stacked(maps: Sequence[Tensor]) -> Tensor:
        out = maps[0].new_zeros(len(maps), height, width, *maps[0].shape[2:])
        for s, x in enumerate(maps):
            out[s, : x.shape[0], : x.shape[1]] = x
        return out

    mask = None
    if valid is not None and any(x is not None for x in valid):
        whole = [torch.ones(c.height, c.width, dtype=torch.bool) for c in cameras]
        mask = stacked([w if x is None else x for w, x in zip(whole, valid, strict=True)])
    return SourceViews(
        images=stacked(images),
        depth=stacked(depths),
        instances=stacked(instances),
        world_to_cam=torch.cat([c.world_to_cam for c in cameras]).float(),
        K=torch.cat([c.K for c in cameras]).float(),
        times=torch.tensor(list(times), dtype=torch.float64),
        sizes=torch.tensor([[c.width, c.height] for c in cameras]),
        valid=mask,
        names=tuple(names),
    )
