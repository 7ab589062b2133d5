"""Five scenes, six kinds of edits in three magnitudes: what is asked for, as world edits, JSON and words.

A world of one thing gets two more that stand, so that one, two or three can be removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scene4d.worlds import (
    Box,
    Capsule,
    Drive,
    Duplicate,
    Edit,
    Insert,
    Motion,
    Move,
    Remove,
    Retime,
    Sphere,
    Texture,
    TimeWarp,
    World,
    WorldObject,
    make_world,
    poses_at,
)
from scene4d.worlds.library import crowd, still
from scene4d.worlds.motions import rotation_about
from scene4d.worlds.types import Matrix4, Vec3

ASSET = 90  # instance of an inserted thing
COPY = 91  # instance of a copy
SWEEP = 8.0  # degrees to both sides that the source camera sees: more leaves hardly anything to reveal
CAMERA_DEGREES = (10.0, 20.0, 40.0)  # by magnitude, as all of the following
MOVE = ((0.12, 20.0), (0.24, 45.0), (0.4, 90.0))  # of the camera's distance; degrees
COPY_SHIFT = (0.15, 0.22, 0.3)  # of the camera's distance
ASSET_SIZE = (0.05, 0.1, 0.18)  # half a side, of the camera's distance


@dataclass(frozen=True)
class Scene:
    """A source world and its things that are edited."""

    name: str
    world: World
    subject: int  # is moved and copied
    mover: int  # is retimed
    removed: tuple[int, int, int]  # one, two or three of them: those that stay longest in their place first


@dataclass(frozen=True)
class Asked:
    """One edit. Without edits it is one of the camera, of `camera_degrees`."""

    kind: str
    magnitude: str
    instruction: str
    edits: tuple[Edit, ...] = ()
    plain: tuple[dict[str, Any], ...] = ()  # the same as JSON
    placed: tuple[int, ...] = ()  # instances whose positions are asked for
    camera_degrees: float = 0.0


def make_scenes(seed: int = 0) -> list[Scene]:
    """The five scenes; another seed gives other textures, phases and crowds."""
    return [replace(scene, world=_narrow(scene.world)) for scene in _whole_scenes(seed)]


def _narrow(world: World) -> World:
    return replace(world, stage=replace(world.stage, degrees=SWEEP))


def _whole_scenes(seed: int) -> list[Scene]:
    walkers = crowd(4, seed=5 + seed)
    lit = reseeded(make_world("room", lit=True), 1000 + seed)
    sphere, arm = make_world("plane_sphere"), make_world("arm")
    return [
        Scene("plane_sphere", reseeded(_with_props(sphere, (0.9, 0.6, 0.0)), seed), 1, 1, (80, 81, 1)),
        Scene("room", reseeded(make_world("room"), seed), 1, 2, (1, 3, 2)),
        Scene("room_lit", replace(lit, name="room_lit"), 3, 3, (3, 1, 2)),
        Scene("arm", reseeded(_with_props(arm, (0.75, 0.5, 0.3)), seed), 1, 1, (1, 80, 81)),
        Scene("crowd", reseeded(walkers, seed), 6, 7, (6, 7, 10)),
    ]


def reseeded(world: World, seed: int) -> World:
    """The same world with other noise in its textures; seed 0 changes nothing."""
    objects = tuple(replace(o, texture=replace(o.texture, seed=o.texture.seed + 10_000 * seed)) for o in world.objects)
    return replace(world, objects=objects)


def _with_props(world: World, at: Vec3) -> World:
    """Two things that stand to the sides."""
    x, y, z = at
    red = Texture((0.75, 0.3, 0.25), (0.85, 0.7, 0.4), (0.0, 0.0, 0.3), noise=0.06, wavelength=0.3, seed=71)
    teal = Texture((0.2, 0.55, 0.55), (0.8, 0.85, 0.8), (0.3, 0.3, 0.3), noise=0.06, wavelength=0.3, seed=72)
    post = WorldObject("post", 80, Capsule(0.14, 0.22), red, still(-x, y, z + 0.1))
    cube = WorldObject("cube", 81, Box((0.2, 0.2, 0.2)), teal, still(x, y, z, (math.cos(0.2), 0.0, 0.0, math.sin(0.2))))
    return replace(world, objects=(*world.objects, post, cube))


def asked_of(scene: Scene, kind: str, level: int) -> Asked:
    """The edit of a kind and magnitude (0, 1, 2). Raises ValueError: there is no such kind."""
    if kind not in _MAKERS:
        raise ValueError(f"kind must be one of {', '.join(_MAKERS)}, got {kind!r}")
    return _MAKERS[kind](scene, level)


def called(scene: Scene, instance: int) -> str:
    """What to call a thing, with its number."""
    name = next(o.name for o in scene.world.objects if o.instance == instance)
    name = "arm" if name == "base" else "walker" if name.startswith("body") else name
    return f"the {name} ({instance})"


def _name(level: int) -> str:
    return ("small", "medium", "large")[level]


def _camera(scene: Scene, level: int) -> Asked:
    degrees = CAMERA_DEGREES[level]
    words = (
        f"Look at the same scene from a camera that swings {degrees:.0f} degrees beyond the end of its path and back."
    )
    return Asked("camera", _name(level), words, camera_degrees=degrees)


def _move(scene: Scene, level: int) -> Asked:
    share, degrees = MOVE[level]
    transform = turned_and_shifted(scene, degrees, share * scene.world.stage.distance)
    plain = {"op": "move", "instance": scene.subject, "transform": _rows(transform)}
    metres = share * scene.world.stage.distance
    words = f"Move {called(scene, scene.subject)} by {metres:.2f} m to the middle and turn it by {degrees:.0f} degrees."
    return Asked("move", _name(level), words, (Move(scene.subject, transform),), (plain,), (scene.subject,))


def _remove(scene: Scene, level: int) -> Asked:
    gone = scene.removed[: level + 1]
    plain = tuple({"op": "remove", "instance": i} for i in gone)
    words = f"Remove {', '.join(called(scene, i) for i in gone)}."
    return Asked("remove", _name(level), words, tuple(Remove(i) for i in gone), plain)


def _insert(scene: Scene, level: int) -> Asked:
    half = ASSET_SIZE[level] * scene.world.stage.distance
    thing = asset(scene, half)
    plain = {"op": "insert", "instance": ASSET, "asset": "asset.ply"}
    words = f"Insert the thing of asset.ply, {2 * half:.2f} m wide, where its points are."
    return Asked("insert", _name(level), words, (Insert((thing,)),), (plain,), (ASSET,))


def _duplicate(scene: Scene, level: int) -> Asked:
    metres = COPY_SHIFT[level] * scene.world.stage.distance
    transform = turned_and_shifted(scene, 0.0, metres)
    plain = {"op": "duplicate", "instance": scene.subject, "transform": _rows(transform), "new_instance": COPY}
    words = f"Copy {called(scene, scene.subject)} and put the copy {metres:.2f} m nearer to the middle."
    edit = Duplicate(scene.subject, transform, COPY)
    return Asked("duplicate", _name(level), words, (edit,), (plain,), (COPY,))


def _retime(scene: Scene, level: int) -> Asked:
    end = scene.world.duration
    warp, words = (
        (TimeWarp((0.0, end), (0.0, 0.6 * end)), "moves at 0.6 of its speed"),
        (TimeWarp((0.0, 0.3 * end, 0.31 * end, end), (0.0, 0.3 * end, 0.3 * end, 0.3 * end)), "stops after a third"),
        (TimeWarp((0.0, end), (end, 0.0)), "moves backwards"),
    )[level]
    plain = {"op": "retime", "instance": scene.mover, "times": list(warp.times), "values": list(warp.values)}
    edit = Retime(scene.mover, warp)
    text = f"Change the time of {called(scene, scene.mover)} so that it {words}."
    return Asked("retime", _name(level), text, (edit,), (plain,), (scene.mover,))


_MAKERS: dict[str, Callable[[Scene, int], Asked]] = {
    "camera": _camera,
    "move": _move,
    "remove": _remove,
    "insert": _insert,
    "duplicate": _duplicate,
    "retime": _retime,
}


def turned_and_shifted(scene: Scene, degrees: float, shift: float) -> Matrix4:
    """A turn about the vertical through the subject's place in mid time, then a shift across the view, over the middle:
    so that it stays in sight."""
    poses = poses_at(scene.world, scene.world.duration / 2).T_world_rest
    rows = [k for k, o in enumerate(scene.world.objects) if o.instance == scene.subject]
    center = poses[rows, :3, 3].mean(0).numpy()
    turn = rotation_about((0.0, 0.0, 1.0), math.radians(degrees))
    azimuth = math.radians(scene.world.stage.azimuth)
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    side = np.dot(center - np.asarray(scene.world.stage.target), right)
    way = (-shift if side > 0 else shift) * right
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, center - turn @ center + way
    rows: Any = tuple(tuple(row) for row in matrix.tolist())
    return rows


def asset(scene: Scene, half: float) -> WorldObject:
    """An ellipsoid that stands still, a little nearer to the camera and lower than the middle of the stage."""
    stage = scene.world.stage
    azimuth = math.radians(stage.azimuth)
    toward = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    side = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    x, y, z = np.asarray(stage.target) + stage.distance * (0.15 * toward - 0.12 * side)
    texture = Texture(
        (0.55, 0.25, 0.7), (0.95, 0.85, 0.3), (1.2 * half, 1.2 * half, 1.2 * half), noise=0.05, wavelength=0.3, seed=73
    )
    motion = Motion(Drive(float(x)), Drive(float(y)), Drive(float(z) - 0.06 * stage.distance))
    return WorldObject("asset", ASSET, Sphere((half, half, 0.8 * half)), texture, motion)


def _rows(matrix: Matrix4) -> list[list[float]]:
    return [list(row) for row in matrix]
