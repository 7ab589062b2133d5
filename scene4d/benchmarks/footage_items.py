"""Items from real clips whose truth is the clip itself: pseudo-removal and pseudo-move.

Pseudo-removal: a foreign thing is pasted over the clip, that is the source; the edit removes it; the truth is the clip.
Pseudo-move: the clip's own masked thing is cut out, its hole filled, and it is put down beside its place, that is the
source; the edit moves it back; the truth is the clip.

Roles. What the source shows where the truth has it is Preserve, so is the thing that is moved back. What the pasted
thing hides is Preserve if its surface can be followed by flow to a frame in which it is not hidden, else Reveal.

T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from scene4d.benchmarks.footage import Cutout, Footage, Motion2D, box_of, paste, seen_elsewhere
from scene4d.errors import InputError
from scene4d.files.atomic import make_folder, write_json
from scene4d.metrics.benchmark_items import MAGNITUDES, Item
from scene4d.metrics.benchmark_writing import ItemData, write_frames, write_item
from scene4d.metrics.region_types import PRESERVE, REVEAL
from scene4d.paths import CameraPath

HEIGHTS = (0.2, 0.35, 0.5)  # of the picture: a foreign thing, by magnitude
SHIFTS = (0.3, 0.7, 1.2)  # of the thing's width: a move
PATH = (0.3, 0.7)  # of the width: where a thing without a place in space walks from and to
FOOT = 0.85  # of the height: where it stands
SPREAD = 5  # pixels around a cut-out that are filled too: its soft edge and its contact shadow


@dataclass(frozen=True, eq=False)
class Made:
    """A source and what of it is the thing."""

    frames: np.ndarray  # [T, H, W, 3] uint8
    thing: np.ndarray  # [T, H, W] bool: where the source shows the thing
    lost: np.ndarray  # [T, H, W] bool: where the source does not show what the clip shows


def removal_item(benchmark: Path, footage: Footage, foreign: Cutout, level: int, motion: Motion2D) -> str:
    """Write a pseudo-removal. An item that is there is left alone: its name. Raises InputError."""
    name = f"{footage.name}.remove.{MAGNITUDES[level]}"
    if (benchmark / "items" / name).exists():
        return name
    made = pasted_over(footage, foreign, HEIGHTS[level])
    roles = np.where(made.lost & ~seen_elsewhere(motion, made.lost), REVEAL, PRESERVE)
    edit = {"op": "remove", "space": "image", "instance": 1}
    words = "Remove the thing that masks/ marks (it is not of this clip)."
    data = _data(footage, made, roles, motion, footage.masks)
    _write(benchmark, name, footage, made, data, _head("remove", level, "pseudo-removal", words, edit))
    return name


def move_item(benchmark: Path, footage: Footage, level: int, motion: Motion2D) -> str:
    """Write a pseudo-move. Raises InputError: the clip has no masks."""
    name = f"{footage.name}.move.{MAGNITUDES[level]}"
    if (benchmark / "items" / name).exists():
        return name
    offset = shift_of(footage, SHIFTS[level])
    made = put_aside(footage, offset)
    assert footage.masks is not None
    cut = footage.masks & ~shifted(np.ones_like(footage.masks), (-offset[0], -offset[1]))  # put out of the picture
    hidden = np.where(footage.masks, cut, made.lost & ~seen_elsewhere(motion, made.lost | footage.masks))
    roles = np.where(hidden, REVEAL, PRESERVE)
    edit = {"op": "move", "space": "image", "instance": 1, "offset": [-offset[0], -offset[1]], "scale": 1.0}
    words = f"Move the thing that masks/ marks by {-offset[0]} pixels to the right and {-offset[1]} down."
    data = _data(footage, made, roles, motion, footage.masks)
    head = {**_head("move", level, "pseudo-move", words, edit), "edited_instances": (1,)}
    _write(benchmark, name, footage, made, data, head)
    return name


def pasted_over(footage: Footage, foreign: Cutout, share: float) -> Made:
    """The clip with a foreign thing of a share of the picture's height: at a place in space where the clip has cameras
    and points, else on a straight way over the picture."""
    height, width = footage.frames.shape[1:3]
    scale = share * height / foreign.height
    feet, scales = feet_in_space(footage) or (None, None)
    count = len(footage.frames)
    if feet is None or scales is None:
        columns = np.linspace(PATH[0] * width, PATH[1] * width, count)
        feet, scales = np.stack([columns, np.full(count, FOOT * height)], 1), np.ones(count)
    frames, changed = [], []
    for t, frame in enumerate(footage.frames):
        k = t % len(foreign.masks)
        place = (float(feet[t, 0]), float(feet[t, 1]))
        pasted, mask = paste(frame, foreign.pictures[k], foreign.masks[k], place, scale * float(scales[t]))
        frames.append(pasted)
        changed.append(mask)
    if not all(mask.any() for mask in changed):
        raise InputError(f"{footage.name}: the pasted thing leaves the picture; choose other frames")
    return Made(np.stack(frames), np.stack(changed), np.stack(changed))


def feet_in_space(footage: Footage) -> tuple[np.ndarray, np.ndarray] | None:
    """Pixels [T, 2] and relative sizes [T] of a point on what stands still, low in the middle of all frames.

    None without cameras or points, for a camera that stands still (the thing would not move at all), and where no point
    is in every frame.
    """
    if footage.points is None or footage.world_to_cam is None or footage.K is None:
        return None
    height, width = footage.frames.shape[1:3]
    poses = footage.world_to_cam
    if np.abs(poses - poses[0]).max() < 1e-6:
        return None
    cam = np.einsum("tij,nj->tni", poses[:, :3, :3], footage.points) + poses[:, None, :3, 3]
    pixels = cam @ footage.K.T
    pixels = pixels[..., :2] / np.where(np.abs(pixels[..., 2:]) > 1e-9, pixels[..., 2:], 1e-9)
    inside = (cam[..., 2] > 0) & (pixels > 0.1 * np.array([width, height])).all(-1)
    inside &= (pixels < 0.95 * np.array([width, height])).all(-1)
    good = np.flatnonzero(inside.all(0))
    if len(good) == 0:
        return None
    want = np.array([0.5 * width, FOOT * height])
    best = good[np.linalg.norm(pixels[:, good] - want, axis=-1).mean(0).argmin()]
    z = cam[:, best, 2]
    return pixels[:, best], np.median(z) / z


def shift_of(footage: Footage, share: float) -> tuple[int, int]:
    """Columns and rows that a thing is put aside by: a share of its width, to the side with more room."""
    if footage.masks is None:
        raise InputError(f"{footage.name}: has no masks, so nothing of it can be moved; give a capture with masks")
    boxes = [box_of(mask) for mask in footage.masks if mask.any()]
    width = float(np.median([b[1].stop - b[1].start for b in boxes]))
    room_left, room_right = min(b[1].start for b in boxes), footage.masks.shape[2] - max(b[1].stop for b in boxes)
    return round(share * width) * (1 if room_right >= room_left else -1), 0


def put_aside(footage: Footage, offset: tuple[int, int]) -> Made:
    """The clip with its thing moved by whole pixels and the hole filled."""
    assert footage.masks is not None
    frames, changed = [], []
    wide = [cv2.dilate(m.astype(np.uint8), np.ones((2 * SPREAD + 1,) * 2)) > 0 for m in footage.masks]
    turns = homographies(footage.frames, wide)
    for t, (frame, mask) in enumerate(zip(footage.frames, footage.masks, strict=True)):
        filled = fill_hole(footage.frames, wide, turns, t)
        if not mask.any():
            frames.append(filled)
            changed.append(mask)
            continue
        box = box_of(mask)
        foot = ((box[1].start + box[1].stop - 1) / 2 + offset[0], float(box[0].stop - 1 + offset[1]))
        pasted, moved = paste(filled, frame[box], mask[box], foot, 1.0)
        frames.append(pasted)
        changed.append(moved)
    moved = np.stack(changed)
    return Made(np.stack(frames), moved, moved | np.stack(wide))


def shifted(masks: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """Masks [T, H, W] moved by columns and rows; False comes in."""
    moved = np.zeros_like(masks)
    height, width = masks.shape[1:]
    x, y = offset
    moved[:, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = masks[
        :, max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)
    ]
    return moved


def homographies(frames: np.ndarray, masks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """[3, 3] from each frame to the next, of what is not masked; the identity where too few features agree."""
    found = []
    for t in range(len(frames) - 1):
        a, b = (cv2.cvtColor(frames[k], cv2.COLOR_RGB2GRAY) for k in (t, t + 1))
        corners = cv2.goodFeaturesToTrack(a, 600, 0.01, 5, mask=(~masks[t]).astype(np.uint8) * 255)
        turn = None
        if corners is not None and len(corners) >= 12:
            start: Any = None  # OpenCV's stubs know no None here
            moved, status, _ = cv2.calcOpticalFlowPyrLK(a, b, corners, start)
            kept = status[:, 0] > 0
            if kept.sum() >= 12:
                turn, _ = cv2.findHomography(corners[kept], moved[kept], cv2.RANSAC, 2.0)
        found.append(np.eye(3) if turn is None else turn)
    return found


def fill_hole(frames: np.ndarray, masks: Sequence[np.ndarray], turns: list[np.ndarray], t: int) -> np.ndarray:
    """Frame t with its masked pixels taken from the nearest frames that show them, the rest inpainted."""
    filled, hole = frames[t].copy(), masks[t].copy()
    size = (frames.shape[2], frames.shape[1])
    to = {t: np.eye(3)}  # from frame t to the others
    for s in range(t + 1, len(frames)):
        to[s] = turns[s - 1] @ to[s - 1]
    for s in range(t - 1, -1, -1):
        to[s] = np.linalg.inv(turns[s]) @ to[s + 1]
    for s in sorted(to, key=lambda k: abs(k - t))[1:]:
        if not hole.any():
            break
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpPerspective(frames[s], to[s], size, flags=flags)
        free = cv2.warpPerspective((~masks[s]).astype(np.uint8) * 255, to[s], size, flags=flags) > 250
        take = hole & free
        filled[take] = picture[take]
        hole &= ~take
    if hole.any():
        filled = cv2.inpaint(np.ascontiguousarray(filled), hole.astype(np.uint8) * 255, 5, cv2.INPAINT_TELEA)
    return filled


# -- writing -----------------------------------------------------------------------------------------------------------


def _head(kind: str, level: int, origin: str, words: str, edit: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "magnitude": MAGNITUDES[level], "origin": origin, "instruction": words, "edit": (edit,)}


def _data(footage: Footage, made: Made, roles: np.ndarray, motion: Motion2D, things: np.ndarray | None) -> ItemData:
    path = None
    if footage.world_to_cam is not None and footage.K is not None:
        poses = torch.from_numpy(footage.world_to_cam)
        height, width = footage.frames.shape[1:3]
        K = torch.from_numpy(footage.K).expand(len(poses), 3, 3).clone()
        times = torch.tensor(footage.times, dtype=torch.float64)
        path = CameraPath(times, poses.double(), K.double(), width, height, scene_times=times)
    return ItemData(
        truth=torch.from_numpy(footage.frames),
        roles=torch.from_numpy(roles.astype(np.uint8)),
        ids=None if things is None else torch.from_numpy(things.astype(np.uint8)),
        flow=torch.from_numpy(motion.backward),
        visible=torch.from_numpy(motion.backward_good),
        stale=torch.from_numpy(made.frames),
        path=path,
    )


def _write(benchmark: Path, name: str, footage: Footage, made: Made, data: ItemData, head: dict[str, Any]) -> None:
    source = benchmark / "sources" / name
    T, height, width = footage.frames.shape[:3]
    item = Item(
        folder=benchmark / "items" / name,
        name=name,
        scene=footage.name,
        source=source,
        frames=T,
        width=width,
        height=height,
        fps=footage.fps,
        times=footage.times,
        **head,
    )
    write_frames(source / "images", torch.from_numpy(made.frames))
    write_frames(source / "masks", torch.from_numpy(made.thing.astype(np.uint8)))
    if footage.world_to_cam is not None and footage.K is not None:
        _write_cameras(source, footage)
    write_item(item, data)


def _write_cameras(source: Path, footage: Footage) -> None:
    assert footage.world_to_cam is not None and footage.K is not None
    T, height, width = footage.frames.shape[:3]
    make_folder(source)
    camera = {
        "name": "camera",
        "images": "images",
        "masks": "masks",
        "width": width,
        "height": height,
        "fps": footage.fps,
        "frames": T,
        "K": footage.K.tolist(),
        "distortion": {"model": "opencv", "coefficients": [0.0, 0.0, 0.0, 0.0]},
        "world_to_cam": footage.world_to_cam.tolist(),
    }
    head = {"format": "scene4d-capture", "version": 1, "units": "units of the capture"}
    write_json(source / "cameras.json", {**head, "cameras": [camera]})
