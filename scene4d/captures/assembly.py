"""From what a reader listed to views: checks poses and lenses, rectifies K, orders views, notes what was odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene4d.captures.capture import View
from scene4d.captures.checks import rigid
from scene4d.captures.frames import CameraTrack, ImageFiles, layer_size, require_files
from scene4d.captures.lens import Lens, checked_lens
from scene4d.errors import InputError


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of a camera whose pictures are already in a track."""

    camera: str
    frame: int
    time: float
    item: int
    world_to_cam: np.ndarray | None  # [4, 4]
    split: str = "train"


@dataclass(frozen=True, eq=False)
class Entry:
    """One frame in a format that lists frames one by one, each with its files, lens and pose."""

    camera: str
    time: float  # in the file's unit; equal times are one instant
    files: Mapping[str, Path | None]  # by layer
    lens: Lens | None
    world_to_cam: np.ndarray | None
    where: str
    split: str = "train"


ONE_SECOND = "the capture is taken to last 1 s; give its fps"  # the end of every note about missing times


class Notes:
    """Collects what was ambiguous or odd for `Capture.notes`; `open_capture` warns of each."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)


@dataclass(frozen=True, eq=False)
class Timing:
    """How times of entries become seconds."""

    fps: float | None = None
    seconds: bool = False  # entry times are seconds already
    depth_scale: float = 1.0
    mask_is_alpha: bool = False
    frame_of: Mapping[float, int] = field(default_factory=dict)  # frame index of a time; by rank where empty


def make_views(shots: Sequence[Shot], tracks: Mapping[str, CameraTrack], where: str) -> tuple[View, ...]:
    """Views of checked poses, ordered by frame and then by the order of `tracks`."""
    if not shots:
        raise InputError(f"{where}: lists no frames")
    intrinsics: dict[Lens, Tensor] = {}
    poses: dict[int, Tensor] = {}
    sizes = {name: layer_size(t.layers["image"]) for name, t in tracks.items() if not t.lenses}
    views = []
    for shot in shots:
        track = tracks[shot.camera]
        lens = track.lens(shot.item)
        if lens is not None and lens not in intrinsics:
            checked_lens(lens, f"{where}: camera {shot.camera}")
            intrinsics[lens] = torch.from_numpy(lens.rectified().K)
        width, height = sizes[shot.camera] if lens is None else (lens.width, lens.height)
        pose = None
        if shot.world_to_cam is not None:
            if id(shot.world_to_cam) not in poses:
                matrix = rigid(shot.world_to_cam, f"{where}: camera {shot.camera}, frame {shot.frame}")
                poses[id(shot.world_to_cam)] = torch.from_numpy(matrix)
            pose = poses[id(shot.world_to_cam)]
        K = None if lens is None else intrinsics[lens]
        views.append(View(shot.camera, shot.frame, shot.time, pose, K, width, height, shot.item, shot.split))
    order = {name: i for i, name in enumerate(tracks)}
    views.sort(key=lambda v: (v.frame, order[v.camera]))
    return tuple(views)


def from_entries(
    entries: Sequence[Entry], timing: Timing, where: str, notes: Notes
) -> tuple[tuple[View, ...], dict[str, CameraTrack]]:
    """Views and tracks of listed frames. Equal times are one frame; a camera that repeats a time is split in two."""
    if not entries:
        raise InputError(f"{where}: lists no frames")
    frame_of = timing.frame_of or {t: i for i, t in enumerate(sorted({e.time for e in entries}))}
    grouped: dict[str, list[Entry]] = {}
    taken: Counter = Counter()
    for entry in entries:
        repeat = taken[entry.camera, entry.time]
        taken[entry.camera, entry.time] += 1
        grouped.setdefault(f"{entry.camera}.{repeat}" if repeat else entry.camera, []).append(entry)
    tracks, shots = {}, []
    for name, members in grouped.items():
        members.sort(key=lambda e: e.time)
        tracks[name] = _track(name, members, timing, notes)
        for item, entry in enumerate(members):
            frame = frame_of[entry.time]
            seconds = frame / timing.fps if timing.fps and not timing.seconds else entry.time
            shots.append(Shot(name, frame, seconds, item, entry.world_to_cam, entry.split))
    return make_views(shots, tracks, where), tracks


def _track(name: str, members: list[Entry], timing: Timing, notes: Notes) -> CameraTrack:
    layers = {}
    for layer in dict.fromkeys(key for e in members for key in e.files):
        paths = tuple(e.files.get(layer) for e in members)
        if any(p is not None for p in paths):
            require_files(paths, layer)
            scale = timing.depth_scale if layer == "depth" else 1.0
            layers[layer] = ImageFiles(paths, scale, from_alpha=layer == "mask" and timing.mask_is_alpha)
    lenses = tuple(e.lens for e in members if e.lens is not None)
    if len(lenses) < len(members):
        lenses = ()
    elif len(set(lenses)) == 1:
        lenses = lenses[:1]
    if lenses and "image" in layers:
        size = layer_size(layers["image"])
        lenses = tuple(matched_lens(lens, size, members[0].where, notes) for lens in lenses)
    return CameraTrack(name, layers, lenses)


def matched_lens(lens: Lens, size: tuple[int, int], where: str, notes: Notes) -> Lens:
    """The lens at the size of the pictures on disk: people shrink images and keep their intrinsics."""
    if size == (lens.width, lens.height):
        return lens
    if abs(size[0] * lens.height - size[1] * lens.width) > 2 * max(lens.width, lens.height):
        raise InputError(
            f"{where}: the camera is {lens.width}x{lens.height}, its images {size[0]}x{size[1]}: not the same shape; "
            "images were cropped or turned, give intrinsics for them as they are"
        )
    notes.add(
        f"{where}: the camera is {lens.width}x{lens.height}, its images {size[0]}x{size[1]}: intrinsics are rescaled"
    )
    return lens.scaled_to(*size)


def with_split(shots: Iterable[Shot], cameras: Iterable[str], split: str) -> list[Shot]:
    """The shots with those of some cameras put into a split."""
    names = set(cameras)
    return [replace(s, split=split) if s.camera in names else s for s in shots]


def ranked_times(count: int, where: str, notes: Notes) -> list[float]:
    """Times of ordered frames without any: one second in all."""
    notes.add(f"{where}: {count} frames in the order of their names, without times: {ONE_SECOND}")
    return [i / max(1, count - 1) for i in range(count)]
