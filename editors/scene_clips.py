"""Clips of edited scenes for video editors: cues, objects, and how surfaces move between the clip's frames.

A surface point x that row i of the edited scene shows at t is, at t',

    x' = mu_i(t') + R_i(t') R_i(t)^T (x - mu_i(t)) s_i(t') / s_i(t)

with the row's centre, rotation and size; the row of a pixel is the one with the largest weight in it.

H W pixels, N' rows of the edited scene, n points.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from editors.video import Carry, ClipFrame, Nearly
from renderers import Cameras
from renderers.quaternions import conjugate, multiply, rotate, unit
from scene4d.cues import Calibration, CueFrame, CueOptions, Prepared, RoleOptions, TargetFrame, stream_cues
from scene4d.cues.frames import draft_cue
from scene4d.cues.project import Session
from scene4d.cues.rendered import look_at_gaussians
from scene4d.edits import EditedScene

LOOSER = 0.04  # relative difference of depth that `nearly` allows more than the cue does
RIM = 4  # pixels to both sides of a thing's outline in a source picture
POSES = 32  # times whose centres and rotations are kept


class RowPoses:
    """Centres, rotations and sizes of the rows of an edited scene at times; keeps those asked for last."""

    def __init__(self, edited: EditedScene) -> None:
        self.edited = edited
        self._kept: OrderedDict[float, tuple[Tensor, Tensor, Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def at(self, time: float) -> tuple[Tensor, Tensor, Tensor]:
        """[N', 3], unit quaternions [N', 4] and mean log scales [N']."""
        with self._lock:
            if time in self._kept:
                self._kept.move_to_end(time)
                return self._kept[time]
        now = self.edited.at(time)
        found = now.means, unit(now.quats), now.log_scales.mean(1)
        with self._lock:
            self._kept[time] = found
            while len(self._kept) > POSES:
                self._kept.popitem(last=False)
        return found


def carry_rows(poses: RowPoses, rows: Tensor, time: float) -> Carry:
    """How the surfaces move that pixels with these rows [H W] show at `time`; -1, nothing, stands still."""
    means, quats, sizes = poses.at(time)

    def carry(pixels: Tensor, points: Tensor, seconds: float) -> Tensor:
        row = rows[pixels].long()
        to_means, to_quats, to_sizes = poses.at(seconds)
        known = row.clamp(min=0)
        moves = (to_means[known] != means[known]).any(1) | (to_quats[known] != quats[known]).any(1)
        own = (moves & (row >= 0)).nonzero()[:, 0]
        if len(own) == 0:
            return points
        i = known[own]
        turn = multiply(to_quats[i], conjugate(quats[i]))
        arm = (points[own] - means[i].to(points)) * (to_sizes[i] - sizes[i]).exp()[:, None]
        moved = points.clone()
        moved[own] = (to_means[i] + rotate(turn, arm.to(to_means))).to(points)
        return moved

    return carry


def loosened(prepared: Prepared, looser: float = LOOSER) -> Prepared:
    """The same source views, tested less closely by depth, and not at all near the outline of a thing: there masks and
    depth are wrong by a few pixels, and what a thing hides would be painted with its own rim."""
    ids = prepared.views.instances.float()[:, None]
    reach = 2 * RIM + 1
    largest = F.max_pool2d(ids, reach, 1, RIM)
    rim = (largest != -F.max_pool2d(-ids, reach, 1, RIM)).reshape(-1)
    allowed = prepared.allowed
    return replace(prepared, allowed=torch.where((allowed < 0) | rim, -allowed.abs() - looser, allowed + looser))


def nearly_seen(loose: Prepared, target: TargetFrame) -> Nearly:
    """Source pixels that show the right object at about the right depth, where the cue's closer test finds none."""
    options = CueOptions(RoleOptions(small=0, erode=False))

    def nearly(asked: Tensor) -> tuple[Tensor, Tensor]:
        draft = draft_cue(loose, replace(target, alpha=target.alpha * asked), options)
        shape = asked.shape
        found = (draft.evidence.count > 0).reshape(shape) & asked & ~target.flag("asset") & ~target.flag("changed")
        return draft.cue.reshape(*shape, 3), torch.where(found, draft.confidence.reshape(shape), 0.0)

    return nearly


def scene_clip(
    session: Session,
    cameras: Cameras,
    times: Sequence[float],
    calibration: Calibration | None = None,
    workers: int = 2,
) -> Iterator[ClipFrame]:
    """The frames of a clip of the session's edited scene."""
    poses = RowPoses(session.after.edited)
    loose = loosened(session.prepared)
    make = session.target(cameras, times)

    def make_clip_frame(k: int, target: TargetFrame, cue: CueFrame) -> ClipFrame:
        objects, rows = _surfaces(session, target)
        return ClipFrame(
            cue=cue,
            objects=objects,
            carry=carry_rows(poses, rows, times[k]),
            restyled=target.flag("changed"),
            nearly=nearly_seen(loose, target),
        )

    return followed(
        lambda target: stream_cues(session.prepared, target, len(times), session.options.cues, calibration, workers),
        make,
        make_clip_frame,
    )


def followed(
    stream: Callable[[Callable[[int], TargetFrame]], Iterator[CueFrame]],
    make: Callable[[int], TargetFrame],
    join: Callable[[int, TargetFrame, CueFrame], ClipFrame],
) -> Iterator[ClipFrame]:
    """Cue frames of a stream, each with the target frame that it was made for. Holds those that are under way."""
    under_way: dict[int, TargetFrame] = {}

    def target(k: int) -> TargetFrame:
        under_way[k] = make(k)
        return under_way[k]

    for k, cue in enumerate(stream(target)):
        yield join(k, under_way.pop(k), cue)


def _surfaces(session: Session, target: TargetFrame) -> tuple[Tensor, Tensor]:
    """Objects [H, W] int32, 0 where nothing is, and rows [H W] int32 of the edited scene that pixels show, or -1."""
    edited = session.after.edited
    look = look_at_gaussians(edited.at(target.time), target.camera, backend=session.after.backend)
    rows = torch.where(look.alpha >= 0.5, look.rows, -1)
    objects = torch.where(rows >= 0, edited.instances[rows.clamp(min=0)], 0)
    return objects.to(torch.int32), rows.reshape(-1).to(torch.int32)
