"""Synthetic worlds with exact truth: what a capture, a fit or an edit of them should have given.

    world = make_world("room")
    rig = arc_rig(world)
    truth = trace(world, rig.at(0), time=0.0)                     images, depth, ids, surface points, normals
    there = flow(world, rig.at(0), 0.0, rig.at(0), 0.1)           optical flow and occlusion, any cameras and times
    points = sample_points(world, rig.at(0), 0.0, count=500)
    paths = tracks(world, points, rig.at(0), times=[0.0, 0.1])    3D and 2D tracks with visibility
    after = edited(world, [Remove(instance=2)])                   a world again: trace it for the edited truth
    poses = poses_at(after, time=0.1)                             object poses
    capture_world(after, rig, Path("out"))                        an ordinary capture folder with its truth

Ray traced in closed form on the CPU, no assets, deterministic.
"""

from scene4d.worlds.capturing import CaptureOptions, capture_world, load_truth
from scene4d.worlds.correspondence import flow, points_at, sample_points, tracks
from scene4d.worlds.editing import Duplicate, Edit, Insert, Move, Remove, Retime, edited, translation
from scene4d.worlds.library import WORLDS, make_world
from scene4d.worlds.motions import poses_at
from scene4d.worlds.noise import Noise
from scene4d.worlds.rigs import Rig, arc_rig, held_out_frames, moving_rig
from scene4d.worlds.tracing import trace
from scene4d.worlds.types import (
    Box,
    Capsule,
    Drive,
    Flow,
    Light,
    Motion,
    Poses,
    Rect,
    Sphere,
    Stage,
    SurfacePoints,
    Texture,
    TimeWarp,
    Tracks,
    Truth,
    World,
    WorldObject,
)

__all__ = [
    "WORLDS",
    "Box",
    "Capsule",
    "CaptureOptions",
    "Drive",
    "Duplicate",
    "Edit",
    "Flow",
    "Insert",
    "Light",
    "Motion",
    "Move",
    "Noise",
    "Poses",
    "Rect",
    "Remove",
    "Retime",
    "Rig",
    "Sphere",
    "Stage",
    "SurfacePoints",
    "Texture",
    "TimeWarp",
    "Tracks",
    "Truth",
    "World",
    "WorldObject",
    "arc_rig",
    "capture_world",
    "edited",
    "flow",
    "held_out_frames",
    "load_truth",
    "make_world",
    "moving_rig",
    "points_at",
    "poses_at",
    "sample_points",
    "trace",
    "tracks",
    "translation",
]
