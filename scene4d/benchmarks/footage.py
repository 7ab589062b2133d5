"""Real clips as data for items: frames, masks, cameras, optical flow, and what was seen where.

Flow between frames is OpenCV's DIS. A pixel's surface is followed from frame to frame as long as flow forth and back
agree; that is the only correspondence that footage without geometry has.

T frames, H W pixels, N points.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from scene4d.captures import CaptureWarning, open_capture
from scene4d.errors import InputError
from scene4d.fitting.flows import dis_flow
from scene4d.worlds import Box, Drive, Motion, Stage, Texture, World, WorldObject, arc_rig, trace

AGREE, AGREE_SHARE = 1.0, 0.05  # flow forth and back may differ by 1 pixel + 5 % of their lengths
FOLLOWED = 40  # frames that a pixel is followed at most, each way
SOFT = 0.8  # pixels: standard deviation of a pasted thing's edge
MIN_FRAMES = 4


@dataclass(frozen=True, eq=False)
class Footage:
    """A clip of one camera."""

    name: str
    frames: np.ndarray  # [T, H, W, 3] uint8
    masks: np.ndarray | None  # [T, H, W] bool: the thing that can be cut out
    times: tuple[float, ...]
    fps: float
    K: np.ndarray | None = None  # [3, 3]
    world_to_cam: np.ndarray | None = None  # [T, 4, 4]
    points: np.ndarray | None = None  # [N, 3] on what stands still


def load_footage(path: Path, camera: str | None, frames: str, long_side: int) -> Footage:
    """The chosen frames of one camera of a capture; its first where none is named. Raises InputError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        capture = open_capture(path).subset(frames=frames)
    views = capture.subset(cameras=[camera or capture.camera_names[0]]).resized(long_side).views
    if len(views) < MIN_FRAMES:
        raise InputError(f"{path}: {len(views)} frames are left of {frames!r}, at least {MIN_FRAMES} are needed")
    masks = [capture.mask(v) for v in views]
    whole = all(m is not None for m in masks) and any(bool(m.any()) for m in masks if m is not None)
    posed = all(v.world_to_cam is not None and v.K is not None for v in views)
    poses = [v.world_to_cam.numpy() for v in views if v.world_to_cam is not None]
    K = views[0].K
    return Footage(
        name="".join(c if c.isalnum() else "_" for c in capture.root.resolve().name) or "clip",
        frames=np.stack([capture.image_u8(v).numpy() for v in views]),
        masks=np.stack([m.numpy() for m in masks if m is not None]) if whole else None,
        times=tuple(v.time for v in views),
        fps=_rate(views[0].time, views[-1].time, len(views)),
        K=K.numpy() if posed and K is not None else None,
        world_to_cam=np.stack(poses) if posed else None,
        points=capture.points.xyz.numpy() if posed and capture.points is not None else None,
    )


def _rate(first: float, last: float, frames: int) -> float:
    return (frames - 1) / (last - first) if last > first else 24.0


@dataclass(frozen=True, eq=False)
class Motion2D:
    """Optical flow of a clip."""

    forward: np.ndarray  # [T, H, W, 2] from frame t to t + 1; the last is 0
    backward: np.ndarray  # [T, H, W, 2] from frame t to t - 1; the first is 0
    forward_good: np.ndarray  # [T, H, W] bool: the way back leads to the start
    backward_good: np.ndarray


def clip_flow(frames: np.ndarray) -> Motion2D:
    """Flow of frames [T, H, W, 3] uint8, both ways."""
    pictures = torch.from_numpy(frames)
    shape = (*frames.shape[:3], 2)
    forward, backward = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    good_forward, good_backward = np.zeros(shape[:3], bool), np.zeros(shape[:3], bool)
    for t in range(len(frames) - 1):
        forward[t] = dis_flow(pictures[t], pictures[t + 1]).numpy()
        backward[t + 1] = dis_flow(pictures[t + 1], pictures[t]).numpy()
        good_forward[t] = _returns(forward[t], backward[t + 1])
        good_backward[t + 1] = _returns(backward[t + 1], forward[t])
    return Motion2D(forward, backward, good_forward, good_backward)


def _returns(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    height, width = there.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    to_x, to_y = x + there[..., 0], y + there[..., 1]
    home = cv2.remap(back, to_x, to_y, cv2.INTER_LINEAR)
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    off = np.linalg.norm(there + home, axis=-1)
    length = np.linalg.norm(there, axis=-1) + np.linalg.norm(home, axis=-1)
    return inside & (off < AGREE + AGREE_SHARE * length)


def seen_elsewhere(motion: Motion2D, hidden: np.ndarray) -> np.ndarray:
    """bool [T, H, W]: hidden pixels [T, H, W] whose surface can be followed to a frame in which it is not hidden."""
    found = np.zeros_like(hidden)
    for t in range(len(hidden)):
        rows, columns = np.nonzero(hidden[t])
        seen = np.zeros(len(rows), bool)
        for step in (1, -1):
            seen |= _followed(motion, hidden, t, step, np.stack([columns, rows], 1).astype(np.float32))
        found[t, rows, columns] = seen
    return found


def _followed(motion: Motion2D, hidden: np.ndarray, t: int, step: int, places: np.ndarray) -> np.ndarray:
    """bool [N]: places [N, 2] (column, row) of frame t come out of hiding on the way."""
    flow, good = (motion.forward, motion.forward_good) if step > 0 else (motion.backward, motion.backward_good)
    height, width = hidden.shape[1:]
    seen, alive, last = np.zeros(len(places), bool), np.arange(len(places)), t
    places = places.copy()
    while len(alive) and 0 <= last + step < len(hidden) and abs(last - t) < FOLLOWED:
        here = places[alive]
        pixels = here.round().astype(int)
        steps = cv2.remap(flow[last], here[None, :, 0], here[None, :, 1], cv2.INTER_LINEAR)[0]
        moved = here + steps
        inside = (moved >= 0).all(1) & (moved <= [width - 1, height - 1]).all(1)
        kept = inside & good[last][pixels[:, 1], pixels[:, 0]]
        places[alive[kept]] = moved[kept]
        alive = alive[kept]
        last += step
        there = places[alive].round().astype(int)
        out = ~hidden[last][there[:, 1], there[:, 0]]
        seen[alive[out]] = True
        alive = alive[~out]
    return seen


# -- things that are pasted --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cutout:
    """A thing that was cut out of a clip: one picture a frame, all of one height on average."""

    pictures: tuple[np.ndarray, ...]  # uint8 [h, w, 3]
    masks: tuple[np.ndarray, ...]  # bool [h, w]

    @property
    def height(self) -> float:
        """Median, in pixels."""
        return float(np.median([m.shape[0] for m in self.masks]))


def cut_out(footage: Footage) -> Cutout:
    """The masked thing of a clip. Raises InputError: the clip has no masks."""
    if footage.masks is None:
        raise InputError(f"{footage.name}: has no masks, so no thing can be cut out of it; give a capture with masks")
    pictures, masks = [], []
    for frame, mask in zip(footage.frames, footage.masks, strict=True):
        if mask.any():
            box = box_of(mask)
            pictures.append(frame[box])
            masks.append(mask[box])
    return Cutout(tuple(pictures), tuple(masks))


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def traced_cutout(frames: int, side: int = 200) -> Cutout:
    """A textured box that turns, ray traced: for captures whose owner has no other clip."""
    look = Texture((0.85, 0.5, 0.2), (0.2, 0.3, 0.6), (0.35, 0.35, 0.35), noise=0.06, wavelength=0.2, seed=7)
    motion = Motion(axis=(0.2, 0.3, 1.0), angle=Drive(0.2, rate=1.5))
    world = World("thing", (WorldObject("box", 1, Box((0.4, 0.3, 0.5)), look, motion),), Stage((0.0, 0.0, 0.0), 2.6))
    camera = arc_rig(world, side, side).at(0)
    pictures, masks = [], []
    for k in range(frames):
        seen = trace(world, camera, k / max(1, frames - 1), samples=2)
        mask = (seen.parts[2] >= 0).numpy()
        box = box_of(mask)
        pictures.append((seen.images[2] * 255).round().to(torch.uint8).numpy()[box])
        masks.append(mask[box])
    return Cutout(tuple(pictures), tuple(masks))


def paste(
    frame: np.ndarray,  # [H, W, 3] uint8
    picture: np.ndarray,  # [h, w, 3] uint8
    mask: np.ndarray,  # [h, w] bool
    foot: tuple[float, float],  # column and row where the middle of its lower edge goes
    scale: float,
) -> tuple[np.ndarray, np.ndarray]:
    """The frame with a thing on it, and the pixels [H, W] bool that it changed."""
    height, width = frame.shape[:2]
    h, w = mask.shape
    grow = np.array([[scale, 0.0, foot[0] - scale * (w - 1) / 2], [0.0, scale, foot[1] - scale * (h - 1)]])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    if scale < 1:  # warpAffine does not average: shrink first
        small = (max(1, round(w * scale)), max(1, round(h * scale)))
        picture = cv2.resize(picture, small, interpolation=how)
        mask = cv2.resize(mask.astype(np.float32), small, interpolation=how) > 0.5
        grow = np.array([[1.0, 0.0, foot[0] - (small[0] - 1) / 2], [0.0, 1.0, foot[1] - (small[1] - 1)]])
    alpha = cv2.warpAffine(mask.astype(np.float32), grow, (width, height), flags=cv2.INTER_LINEAR)
    alpha = cv2.GaussianBlur(alpha, (0, 0), SOFT)[..., None]
    alpha[alpha < 1 / 255] = 0.0
    color = cv2.warpAffine(picture, grow, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    pasted = frame * (1 - alpha) + color * alpha
    return (pasted + 0.5).astype(np.uint8), alpha[..., 0] > 0
