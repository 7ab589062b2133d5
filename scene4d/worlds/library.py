"""The worlds: `plane_sphere`, `room`, `arm` and `crowd`. All motion is smooth, all textures band limited.

`wavelength` is chosen as about ten pixels or more at 160x120: finer texture can be neither warped nor fitted there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scene4d.worlds.types import (
    Box,
    Capsule,
    Drive,
    Light,
    Motion,
    Rect,
    Sphere,
    Stage,
    Texture,
    Vec3,
    World,
    WorldObject,
)

HALF = math.sqrt(0.5)
# Rotations (wxyz) that turn the +z side of a Rect into the room
FACES_UP, FACES_DOWN = (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)
FACES_MINUS_Y, FACES_PLUS_Y = (HALF, HALF, 0.0, 0.0), (HALF, -HALF, 0.0, 0.0)
FACES_PLUS_X, FACES_MINUS_X = (HALF, 0.0, HALF, 0.0), (HALF, 0.0, -HALF, 0.0)


def make_world(name: str, lit: bool = False) -> World:
    """A world by name. `lit` adds a fixed light, so that shading changes as things turn.

    Raises ValueError for an unknown name.
    """
    if name not in WORLDS:
        raise ValueError(f"name must be one of {', '.join(WORLDS)}, got {name!r}")
    world = WORLDS[name]()
    return replace(world, light=Light()) if lit else world


def still(x: float, y: float, z: float, rest_quat: tuple[float, float, float, float] = FACES_UP) -> Motion:
    return Motion(Drive(x), Drive(y), Drive(z), rest_quat=rest_quat)


def plane_sphere() -> World:
    """A textured sphere (r 0.55) that moves 1.2 m and turns 0.8 rad in 1 s before a textured plane.

    The reference scene of the Instruct 4D-to-4D gates: 6 cameras on an arc of +-20 degrees, f 150 at 160x120, an
    object motion of 5 to 7 pixels a frame in 10 frames. The path is slightly curved and the sphere comes closer.
    """
    plane = WorldObject(
        "plane",
        0,
        Rect((7.0, 6.0)),
        Texture((0.64, 0.52, 0.38), noise=0.11, wavelength=0.6, seed=1),
        still(0.0, 1.5, 0.0, FACES_MINUS_Y),
    )
    motion = Motion(
        x=Drive(-0.6, rate=1.2),
        z=Drive(-0.04, amplitude=0.1, hz=0.5),
        axis=(0.2, 0.3, 1.0),
        angle=Drive(0.0, rate=-0.8),
    )
    texture = Texture(
        (0.2, 0.4, 0.72), (0.8, 0.68, 0.6), checks=(0.8, 0.8, 0.8), softness=0.7, noise=0.06, wavelength=0.45, seed=2
    )
    sphere = WorldObject("sphere", 1, Sphere((0.55, 0.55, 0.55)), texture, motion)
    return World("plane_sphere", (plane, sphere), Stage((0.0, 0.0, 0.0), distance=3.1, degrees=20.0, elevation=4.0))


def room() -> World:
    """A closed room of 5.6 x 5 x 2.8 m with a crate that stands, a block that tumbles and a blob that sways."""
    crate = WorldObject(
        "crate",
        1,
        Box((0.36, 0.36, 0.36)),
        Texture((0.82, 0.62, 0.34), (0.42, 0.26, 0.14), checks=(0.48, 0.48, 0.48), noise=0.05, wavelength=0.3, seed=11),
        still(-0.95, 0.55, 0.36, (math.cos(0.3), 0.0, 0.0, math.sin(0.3))),
    )
    block = WorldObject(
        "block",
        2,
        Box((0.34, 0.22, 0.22)),
        Texture((0.12, 0.46, 0.28), (0.82, 0.84, 0.5), checks=(0.29, 0.29, 0.29), noise=0.05, wavelength=0.3, seed=12),
        Motion(
            x=Drive(-0.1, amplitude=0.55, hz=0.4, phase=-0.18),
            y=Drive(-0.3, rate=0.15),
            z=Drive(1.15, amplitude=0.22, hz=0.5, phase=0.1),
            axis=(0.5, 0.3, 1.0),
            angle=Drive(0.3, rate=1.2),
        ),
    )
    blob = WorldObject(
        "blob",
        3,
        Sphere((0.38, 0.38, 0.42)),
        Texture((0.86, 0.24, 0.2), (0.9, 0.75, 0.66), checks=(0.0, 0.0, 0.42), noise=0.07, wavelength=0.3, seed=13),
        Motion(
            x=Drive(0.85),
            y=Drive(0.3),
            z=Drive(0.55),
            stretch=Drive(1.0, amplitude=0.28, hz=0.6, phase=0.05),
            lean=Drive(0.0, amplitude=0.3, hz=0.45, phase=-0.1),
        ),
    )
    walls = _walls((2.8, 2.5, 2.8))
    stage = Stage((0.0, 0.5, 0.85), distance=2.75, degrees=28.0, elevation=9.0, focal=0.8)
    return World("room", (*walls, crate, block, blob), stage)


def _walls(size: Vec3) -> tuple[WorldObject, ...]:
    """The six inner sides of a room of half width, half depth and height `size`, floor at z = 0."""
    x, y, height = size
    z = height / 2
    over = 0.01  # walls overlap behind each other, so that no ray slips through a corner
    sides: list[tuple[str, float, float, float, tuple[float, float, float, float], float, float, Vec3]] = [
        ("floor", 0.0, 0.0, 0.0, FACES_UP, x, y, (0.42, 0.3, 0.22)),
        ("ceiling", 0.0, 0.0, height, FACES_DOWN, x, y, (0.72, 0.72, 0.68)),
        ("back", 0.0, y, z, FACES_MINUS_Y, x, z, (0.5, 0.62, 0.7)),
        ("front", 0.0, -y, z, FACES_PLUS_Y, x, z, (0.66, 0.56, 0.6)),
        ("left", -x, 0.0, z, FACES_PLUS_X, z, y, (0.72, 0.66, 0.46)),
        ("right", x, 0.0, z, FACES_MINUS_X, z, y, (0.55, 0.68, 0.55)),
    ]
    walls = []
    for i, (name, px, py, pz, quat, half_u, half_v, color) in enumerate(sides):
        texture = Texture(color, noise=0.09, wavelength=0.55, seed=20 + i)
        if name == "floor":
            texture = replace(texture, color2=(0.72, 0.66, 0.56), checks=(1.4, 1.4, 0.0), noise=0.06)
        walls.append(WorldObject(name, 0, Rect((half_u + over, half_v + over)), texture, still(px, py, pz, quat)))
    return tuple(walls)


def _backdrop(seed: int, y: float = 2.2) -> tuple[WorldObject, ...]:
    """A floor and a wall that fill the view."""
    floor = Texture((0.38, 0.36, 0.36), (0.56, 0.54, 0.5), (1.5, 1.5, 0.0), noise=0.06, wavelength=0.5, seed=seed)
    wall = Texture((0.6, 0.68, 0.74), noise=0.08, wavelength=0.6, seed=seed + 1)
    return (
        WorldObject("floor", 0, Rect((9.0, 9.0)), floor, still(0.0, 0.0, 0.0)),
        WorldObject("wall", 0, Rect((9.0, 6.0)), wall, still(0.0, y, 0.0, FACES_MINUS_Y)),
    )


def _limb(name: str, parent: str, at: float, size: tuple[float, float], turn: tuple[Vec3, Drive], look: Texture):
    """A capsule whose joint is `at` metres along its parent's z axis, and which turns about that joint.

    `size` is radius and half length; the capsule's middle is half its length from the joint. `at` is counted from the
    middle of the parent.
    """
    radius, half = size
    motion = Motion(z=Drive(at), axis=turn[0], angle=turn[1], offset=(0.0, 0.0, half))
    return WorldObject(name, 1, Capsule(radius, half), look, motion, parent)


def arm() -> World:
    """An arm of four links on a turning base, waving. One instance; each link is one object, a child of the one before.

    Each link turns about its joint, so all points of a link move together and no two links do.
    """
    base = WorldObject(
        "base",
        1,
        Box((0.2, 0.2, 0.12)),
        Texture((0.2, 0.22, 0.26), (0.8, 0.72, 0.3), (0.32, 0.32, 0.32), noise=0.05, wavelength=0.25, seed=41),
        Motion(z=Drive(0.12), angle=Drive(0.0, amplitude=0.35, hz=0.35, phase=-0.2)),
    )
    bands = (0.0, 0.0, 0.34)
    looks = [
        Texture((0.9, 0.5, 0.16), (0.55, 0.22, 0.14), bands, noise=0.06, wavelength=0.28, seed=42),
        Texture((0.2, 0.44, 0.8), (0.75, 0.8, 0.9), bands, noise=0.06, wavelength=0.28, seed=43),
        Texture((0.2, 0.6, 0.26), (0.85, 0.84, 0.35), bands, noise=0.06, wavelength=0.28, seed=44),
        Texture((0.8, 0.2, 0.36), (0.92, 0.75, 0.6), (0.2, 0.2, 0.2), noise=0.06, wavelength=0.28, seed=45),
    ]
    bend: Vec3 = (0.0, 1.0, 0.0)
    links = (
        _limb("lower", "base", 0.12, (0.13, 0.3), (bend, Drive(-0.35, amplitude=0.35, hz=0.4, phase=-0.15)), looks[0]),
        _limb("upper", "lower", 0.3, (0.11, 0.28), (bend, Drive(0.75, amplitude=0.45, hz=0.45, phase=-0.3)), looks[1]),
        _limb("hand", "upper", 0.28, (0.1, 0.14), (bend, Drive(0.6, amplitude=0.4, hz=0.55, phase=0.1)), looks[2]),
        _limb("thumb", "hand", 0.1, (0.07, 0.14), ((1.0, 0.0, 0.0), Drive(-0.7, amplitude=0.4, hz=0.5)), looks[3]),
    )
    stage = Stage((0.1, 0.0, 0.76), distance=2.6, degrees=24.0, elevation=12.0)
    return World("arm", (*_backdrop(46, 1.6), base, *links), stage)


def crowd(side: int = 7, seed: int = 3) -> World:
    """side x side walkers (a body and a head) who each go round a small circle of their own, seen from above.

    Raises ValueError for more than 255 walkers: instance ids are stored in 8 bits.
    """
    if not 1 <= side <= 15:
        raise ValueError(f"side must be between 1 and 15, got {side}")
    random = np.random.default_rng(seed)
    spacing = 0.85
    objects = list(_backdrop(60, spacing * side / 2 + 0.6))
    for i in range(side * side):
        home = spacing * (np.array([i % side, i // side]) - (side - 1) / 2) + random.uniform(-0.08, 0.08, 2)
        objects += _walker(i + 1, home, random)
    size = spacing * side
    stage = Stage((0.0, -0.05 * size, 0.3), distance=0.95 * size, degrees=24.0, elevation=32.0)
    return World("crowd", tuple(objects), stage)


def _walker(instance: int, home: np.ndarray, random: np.random.Generator) -> list[WorldObject]:
    """Circle of radius 0.2 m at most: neighbours 0.85 m apart, less 2 x 0.08 m of jitter, never meet."""
    radius, turns = random.uniform(0.08, 0.2), random.choice([-1.0, 1.0]) * random.uniform(0.35, 0.55)
    phase, height = random.uniform(), random.uniform(0.2, 0.3)
    heading = Drive(2 * math.pi * phase + math.copysign(math.pi / 2, turns), rate=2 * math.pi * turns)
    motion = Motion(
        x=Drive(float(home[0]), amplitude=radius, hz=turns, phase=phase + 0.25),
        y=Drive(float(home[1]), amplitude=radius, hz=turns, phase=phase),
        z=Drive(height + 0.12, amplitude=0.02, hz=1.5, phase=phase),
        angle=heading,
    )
    color, color2 = (tuple(random.uniform(0.1, 0.9, 3).tolist()) for _ in range(2))
    cloth = Texture(color, color2, (0.0, 0.0, 0.4), noise=0.05, wavelength=0.3, seed=1000 + instance)
    skin = Texture((0.7, 0.55, 0.45), color, (0.3, 0.3, 0.0), noise=0.06, wavelength=0.3, seed=2000 + instance)
    body = WorldObject(f"body{instance}", instance, Capsule(0.12, height), cloth, motion)
    head_motion = Motion(x=Drive(0.03), z=Drive(height + 0.17))
    return [body, WorldObject(f"head{instance}", instance, Sphere((0.11, 0.11, 0.13)), skin, head_motion, body.name)]


WORLDS: dict[str, Callable[[], World]] = {
    "plane_sphere": plane_sphere,
    "room": room,
    "arm": arm,
    "crowd": crowd,
}
