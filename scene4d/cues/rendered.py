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
from renderers.quaternions import rotate, unit
from scene4d.cues.sources import SourceViews
from scene4d.cues.target import BackMap, MapsAt, TargetFrame
from scene4d.edits import EditedScene, Provenance
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
        """Centres [3, M] and rotations [3, 3, M] of the M moving rows."""
        with self._lock:
            if time in self._kept:
                self._kept.move_to_end(time)
                return self._kept[time]
        now = self._part.at(time)
        found = now.means.T.contiguous(), _matrices(unit(now.quats))
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
            back_map=self._back_map(rows.reshape(-1), origin),
            source_times=torch.where(found, origin.source_times[rows].float(), time),
            deforming=found & self._soft[known],
            asset=asset,
            changed=found & origin.appearance_changed[rows],
            image=look.image.clamp(0, 1),
        )

    def _back_map(self, rows: Tensor, origin: Provenance) -> BackMap:
        """Maps are made once a row that is seen, not once a pixel."""
        poses = self._poses

        def back_map(pixels: Tensor) -> MapsAt:
            used, place = torch.unique(rows[pixels], return_inverse=True)
            turn = origin.rotations[used].mT / origin.scales[used][:, None, None]  # of A^-1
            shift = -(turn @ origin.translations[used][..., None])
            still = torch.cat([turn, shift], -1).permute(1, 2, 0).contiguous()  # [3, 4, u]
            moving = poses.place[origin.parents[used].clamp(min=0)]
            own = (moving >= 0).nonzero()[:, 0]
            moving = moving[own]
            means, turns = _at_times(poses, moving, origin.source_times[used][own])
            body = still[:, :, own]
            body[:, 3] -= means
            body = _times(turns.transpose(0, 1), body)  # R(theta)^T (A^-1 x - mu(theta))

            def maps_at(seconds: float) -> Tensor:
                means, turns = (x.index_select(-1, moving) for x in poses.at(seconds))
                now = _times(turns, body)
                now[:, 3] += means
                return still.index_copy(2, own, now).index_select(2, place)

            return maps_at

        return back_map


def _times(turns: Tensor, maps: Tensor) -> Tensor:
    """Rotations [3, 3, m] times affine maps [3, 4, m]: sums of planes, far quicker in torch than small matrices."""
    rows = [sum(turns[i, j] * maps[j] for j in range(3)) for i in range(3)]
    return torch.stack([torch.as_tensor(row) for row in rows])


def _at_times(poses: SourcePoses, moving: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Centres [3, m] and rotations [3, 3, m] of moving rows, each at a time of its own."""
    means = poses.scene.means.new_zeros(3, len(moving))
    turns = poses.scene.means.new_zeros(3, 3, len(moving))
    for time in torch.unique(times).tolist():
        here = (times == time).nonzero()[:, 0]
        for out, now in zip((means, turns), poses.at(time), strict=True):
            out.index_copy_(-1, here, now.index_select(-1, moving[here]))
    return means, turns


def _matrices(quats: Tensor) -> Tensor:
    """[3, 3, m] of unit quaternions [m, 4]."""
    axes = torch.eye(3, dtype=quats.dtype, device=quats.device)
    return torch.stack([rotate(quats, axis.expand(len(quats), 3)).T for axis in axes], 1).contiguous()


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
