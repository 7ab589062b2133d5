"""Small captures of worlds, their edits and true roles, for the tests of cues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.cues.exact import Faults, WorldGeometry, world_frame, world_sources
from scene4d.cues.frames import CueFrame, CueOptions, make_cue
from scene4d.cues.leave_one_out import leave_one_out
from scene4d.cues.sources import Prepared, prepare
from scene4d.cues.target import TargetFrame
from scene4d.worlds import (
    Duplicate,
    Edit,
    Insert,
    Move,
    Remove,
    Retime,
    Sphere,
    Texture,
    TimeWarp,
    Truth,
    World,
    WorldObject,
    edited,
    make_world,
    moving_rig,
    trace,
    translation,
)
from scene4d.worlds.library import still
from scene4d.worlds.rigs import arc_pose
from scene4d.worlds.roles import TrueRoles, true_roles

WIDTH, HEIGHT, FRAMES = 216, 135, 12
BLOCK, BLOB = 2, 3  # instances of the room
NOISY = Faults(depth=0.01, bleed=True, track=0.01)
SHOWN = (1, 9)  # frames of each edit that are looked at
BALL = WorldObject("ball", 9, Sphere((0.3, 0.3, 0.3)), Texture(), still(0.0, 0.2, 0.4))
EDITS: dict[str, tuple[Edit, ...]] = {
    "camera": (),
    "move": (Move(BLOCK, translation(0.35, 0.2, -0.2)),),
    "remove": (Remove(BLOCK),),
    "insert": (Insert((BALL,)),),
    "duplicate": (Duplicate(BLOCK, translation(0.5, 0.5, 0.3), 7),),
    "retime": (Retime(BLOCK, TimeWarp((0.0, 1.0), (0.9, 0.1))),),
}


@dataclass(frozen=True, eq=False)
class Captured:
    """The room, seen by one moving camera."""

    world: World
    cameras: list[Cameras]
    times: list[float]
    faults: Faults
    prepared: Prepared

    def frame(self, s: int) -> TargetFrame:
        """Source view s as a target."""
        return world_frame(WorldGeometry(self.world, self.world, self.faults), self.cameras[s], self.times[s], key=s)


@dataclass(frozen=True, eq=False)
class Shown:
    """One frame of an edit, its cue and the truth."""

    cue: CueFrame
    roles: TrueRoles
    truth: Truth

    @property
    def image(self) -> Tensor:
        return self.truth.images[0]


@cache
def captured(noisy: bool = False, width: int = WIDTH, height: int = HEIGHT) -> Captured:
    world = make_world("room")
    rig = moving_rig(world, FRAMES, width, height)
    cameras = [rig.at(k) for k in range(FRAMES)]
    times = [k / (FRAMES - 1) for k in range(FRAMES)]
    faults = NOISY if noisy else Faults()
    return Captured(world, cameras, times, faults, prepare(world_sources(world, cameras, times, faults)))


@cache
def labels_of(noisy: bool = False):
    room = captured(noisy)
    return leave_one_out(room.prepared, room.frame)  # all views: the halves and the held-out ones need some each


def path_camera(room: Captured, k: int) -> Cameras:
    """Beside the source's path: higher, nearer, sweeping the other way and farther, looking aside."""
    side = 1 - 2 * k / (FRAMES - 1)
    pose = turned_aside(arc_pose(room.world.stage, 40.0 * side, 5.0, 0.05), -14.0 * side)
    K, c = room.cameras[0].K, room.cameras[0]
    return Cameras(torch.from_numpy(pose)[None], K, c.width, c.height)


def turned_aside(world_to_cam: np.ndarray, degrees: float) -> np.ndarray:
    """The pose turned about its own vertical axis: to the right by positive degrees."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, 0, -s, 0], [0, 1, 0, 0], [s, 0, c, 0], [0, 0, 0, 1.0]])
    return turn @ world_to_cam


@cache
def traced(name: str, k: int) -> tuple[World, Cameras, Truth, TrueRoles]:
    """The edited world, the camera, its trace and its true roles: they do not depend on faults."""
    room = captured(False)
    after = edited(room.world, EDITS[name])
    camera = path_camera(room, k) if name == "camera" else room.cameras[k]
    truth = trace(after, camera, room.times[k], 2)
    assets = {"ball"} if name == "insert" else set()
    roles = true_roles(room.world, after, camera, room.times[k], room.cameras, room.times, assets)
    return after, camera, truth, roles


def shown(name: str, noisy: bool, calibration=None, options: CueOptions | None = None) -> list[Shown]:
    """The frames SHOWN of an edit of the room."""
    room, found = captured(noisy), []
    for k in SHOWN:
        after, camera, truth, roles = traced(name, k)
        assets = frozenset({"ball"} if name == "insert" else ())
        geometry = WorldGeometry(room.world, after, room.faults, assets)
        frame = world_frame(geometry, camera, room.times[k], key=1000 + k, truth=truth)
        found.append(Shown(make_cue(room.prepared, frame, options, calibration), roles, truth))
    return found


def iou(frames: list[Shown], role: int) -> float:
    pairs = [((f.cue.roles == role) & ~f.roles.asset, (f.roles.roles == role) & ~f.roles.asset) for f in frames]
    both = sum(int((a & b).sum()) for a, b in pairs)
    return both / max(sum(int((a | b).sum()) for a, b in pairs), 1)


def recall(frames: list[Shown], role: int) -> float:
    wanted = [(f.roles.roles == role) & ~f.roles.asset for f in frames]
    hits = sum(int((w & (f.cue.roles == role)).sum()) for w, f in zip(wanted, frames, strict=True))
    return hits / max(sum(int(w.sum()) for w in wanted), 1)


def observed_pixels(frames: list[Shown]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, raw confidence and colour differences [m, 3] of all observed pixels."""
    parts = [(f.cue.confidence, f.cue.raw_confidence, f.cue.image - f.image, f.cue.observed) for f in frames]
    c, r, e = (np.concatenate([p[i][p[3]].double().numpy() for p in parts]) for i in range(3))
    return c, r, e


def psnr(differences: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(differences).mean()))
