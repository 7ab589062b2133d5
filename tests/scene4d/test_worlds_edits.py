"""Edited worlds against worlds that were built that way, and the data that worlds and edits are."""

import json
import math
from dataclasses import replace

import pytest
import torch

from renderers import Cameras
from scene4d.worlds import (
    Box,
    Drive,
    Duplicate,
    Insert,
    Move,
    Remove,
    Retime,
    Texture,
    TimeWarp,
    Truth,
    World,
    WorldObject,
    arc_rig,
    edited,
    make_world,
    poses_at,
    trace,
    translation,
)
from scene4d.worlds.library import still
from scene4d.worlds.motions import warp_time
from scene4d.worlds.serial import from_json, to_json
from scene4d.worlds.types import IDENTITY

BLOCK, BLOB = 2, 3  # instances of the room


def seen(world: World, time: float = 0.4) -> Truth:
    rig = arc_rig(make_world("room"), 80, 60).at(0)
    return trace(world, Cameras(rig.world_to_cam[2:4], rig.K[2:4], 80, 60), time, samples=1)


def assert_same_view(a: Truth, b: Truth) -> None:
    torch.testing.assert_close(a.depth, b.depth, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=1e-4)
    assert torch.equal(a.ids, b.ids)


def turned(degrees: float, x: float, y: float, z: float) -> tuple:
    """A turn about the vertical through the origin, then a shift."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return ((c, -s, 0.0, x), (s, c, 0.0, y), (0.0, 0.0, 1.0, z), (0.0, 0.0, 0.0, 1.0))


def test_removing_is_a_world_built_without() -> None:
    world = make_world("room")
    without = replace(world, objects=tuple(o for o in world.objects if o.name != "block"))
    found = seen(edited(world, [Remove(BLOCK)]))
    assert_same_view(found, seen(without))
    assert (seen(world).ids == BLOCK).any() and not (found.ids == BLOCK).any()
    outside = (seen(world).ids != BLOCK)[..., None].expand_as(found.images)
    assert torch.equal(found.images[outside], seen(world).images[outside])  # nothing else changes


def test_moving_is_a_world_built_with_the_other_path() -> None:
    world = make_world("room")
    objects = list(world.objects)
    k = [o.name for o in objects].index("block")
    motion = objects[k].motion
    elsewhere = replace(
        motion,
        x=replace(motion.x, offset=motion.x.offset + 0.3),
        y=replace(motion.y, offset=motion.y.offset + 0.2),
        z=replace(motion.z, offset=motion.z.offset - 0.25),
    )
    objects[k] = replace(objects[k], motion=elsewhere)
    moved = edited(world, [Move(BLOCK, translation(0.3, 0.2, -0.25))])
    for time in (0.0, 0.7):
        assert_same_view(seen(moved, time), seen(replace(world, objects=tuple(objects)), time))


def test_moves_chain_in_the_world_and_the_last_comes_last() -> None:
    world = make_world("room")
    first, second = turned(30.0, 0.1, 0.0, 0.0), turned(-50.0, 0.0, 0.2, 0.1)
    both = poses_at(edited(world, [Move(BLOCK, first), Move(BLOCK, second)]), 0.3).T_world_obj
    expected = torch.tensor(second).double() @ torch.tensor(first).double() @ poses_at(world, 0.3).T_world_obj[-2]
    torch.testing.assert_close(both[-2], expected, atol=1e-6, rtol=0)  # torch.tensor made float32 of the turns
    torch.testing.assert_close(both[-1], poses_at(world, 0.3).T_world_obj[-1])


def test_moving_an_arm_moves_every_link_rigidly_and_scaling_scales_it() -> None:
    world = make_world("arm")
    doubled = ((2.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 2.0, 0.0), IDENTITY[3])
    for transform, scale in ((turned(40.0, 0.3, -0.2, 0.0), 1.0), (doubled, 2.0)):
        before, after = (poses_at(w, 0.6).T_world_rest for w in (world, edited(world, [Move(1, transform)])))
        T = torch.tensor(transform, dtype=torch.float64)
        torch.testing.assert_close(after[2:], T @ before[2:])
        assert torch.linalg.det(after[3, :3, :3]).item() == pytest.approx(scale**3)
        assert torch.equal(after[:2], before[:2])


def test_a_copy_looks_like_the_moved_original_and_the_original_stays() -> None:
    world = make_world("room")
    there = turned(15.0, -0.5, 0.3, 0.2)
    copied = edited(world, [Duplicate(BLOB, there, 9)])
    assert copied.instances == [1, 2, 3, 9]
    moved = seen(edited(world, [Move(BLOB, there)]))
    only_copy = seen(edited(copied, [Remove(BLOB)]))
    torch.testing.assert_close(only_copy.depth, moved.depth)
    torch.testing.assert_close(only_copy.images, moved.images)
    assert torch.equal(only_copy.ids == 9, moved.ids == BLOB)
    assert torch.equal((seen(copied).ids == BLOB) & (seen(copied).ids != 9), seen(copied).ids == BLOB)
    assert_same_view(seen(edited(copied, [Remove(9)])), seen(world))


def test_a_copied_arm_moves_by_itself() -> None:
    world = make_world("arm")
    copied = edited(world, [Duplicate(1, translation(0.5, 0.0, 0.0), 2), Retime(2, TimeWarp((0.0, 1.0), (0.3, 0.3)))])
    count = len(world.objects) - 2
    early, late = poses_at(copied, 0.0).T_world_rest, poses_at(copied, 1.0).T_world_rest
    torch.testing.assert_close(early[-count:], late[-count:])  # frozen
    torch.testing.assert_close(late[2 : 2 + count], poses_at(world, 1.0).T_world_rest[2:])  # the original goes on
    expected = poses_at(world, 0.3).T_world_rest[2:].clone()
    expected[:, 0, 3] += 0.5
    torch.testing.assert_close(late[-count:], expected)


def test_retiming_by_the_identity_changes_no_bit_and_reversing_plays_backwards() -> None:
    world = make_world("room")
    same = edited(world, [Retime(BLOB, TimeWarp((0.0, 1.0), (0.0, 1.0)))])
    for time in (0.0, 0.37, 1.4):
        assert torch.equal(poses_at(same, time).T_world_rest, poses_at(world, time).T_world_rest)
    backwards = edited(world, [Retime(BLOB, TimeWarp((0.0, 1.0), (1.0, 0.0)))])
    torch.testing.assert_close(poses_at(backwards, 0.2).T_world_rest[-1], poses_at(world, 0.8).T_world_rest[-1])
    torch.testing.assert_close(poses_at(backwards, 0.2).T_world_rest[:-1], poses_at(world, 0.2).T_world_rest[:-1])


def test_warps_compose_so_that_the_last_edit_is_applied_to_scene_time_first() -> None:
    slow, late = TimeWarp((0.0, 1.0), (0.0, 0.5)), TimeWarp((0.0, 1.0), (-0.2, 0.8))
    world = edited(make_world("room"), [Retime(BLOCK, slow), Retime(BLOCK, late)])
    expected = poses_at(make_world("room"), 0.5 * (0.6 - 0.2)).T_world_rest[-2]
    torch.testing.assert_close(poses_at(world, 0.6).T_world_rest[-2], expected)


def test_warp_interpolates_between_knots_and_goes_on_beyond_them() -> None:
    warp = TimeWarp((0.0, 0.5, 1.0), (0.0, 1.0, 1.0))
    for time, value in ((-0.1, -0.2), (0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 1.0), (2.0, 1.0)):
        assert warp_time(warp, time) == pytest.approx(value)
    with pytest.raises(ValueError, match="times must increase"):
        TimeWarp((0.0, 0.0), (0.0, 1.0))
    with pytest.raises(ValueError, match="as many knots"):
        TimeWarp((0.0, 1.0), (0.0,))


def test_inserting_what_was_removed_gives_the_same_world() -> None:
    world = make_world("room")
    blob = tuple(o for o in world.objects if o.instance == BLOB)
    assert edited(world, [Remove(BLOB), Insert(blob)]) == world
    lamp = WorldObject("lamp", 5, Box((0.1, 0.1, 0.4)), Texture(), still(0.0, 0.0, 1.0))
    assert edited(edited(world, [Insert((lamp,))]), [Remove(5)]) == world
    assert (seen(edited(world, [Insert((lamp,))])).ids == 5).any()


def test_edits_of_what_is_not_there_are_refused() -> None:
    world = make_world("room")
    for edit in (Remove(0), Remove(4), Move(7, IDENTITY), Retime(0, TimeWarp()), Duplicate(8, IDENTITY, 9)):
        with pytest.raises(ValueError, match=r"instance must be one of \[1, 2, 3\] of world 'room', got"):
            edited(world, [edit])
    for edit in (Duplicate(1, IDENTITY, 2), Duplicate(1, IDENTITY, 0), Insert(world.objects[-1:])):
        with pytest.raises(ValueError, match="instance must be new"):
            edited(world, [edit])


def test_worlds_survive_json_to_the_bit() -> None:
    edits = [Duplicate(BLOB, turned(33.0, 0.1, 0.2, 1 / 3), 4), Retime(BLOCK, TimeWarp((0.0, 0.7), (0.1, 0.2)))]
    for world in (edited(make_world("room", lit=True), edits), make_world("arm"), make_world("crowd")):
        assert from_json(json.loads(json.dumps(to_json(world)))) == world
    with pytest.raises(ValueError, match="type must be one of"):
        from_json({"type": "Path"})
    with pytest.raises(ValueError, match="fields of Drive"):
        from_json({"type": "Drive", "speed": 1.0})


def test_drive_is_its_closed_form() -> None:
    world = make_world("room")
    path = replace(world.objects[-1].motion, x=Drive(0.1, 0.2, 0.3, 0.4, 0.05))
    moved = replace(world, objects=(*world.objects[:-1], replace(world.objects[-1], motion=path)))
    expected = 0.1 + 0.2 * 0.7 + 0.3 * math.sin(2 * math.pi * (0.4 * 0.7 + 0.05))
    assert poses_at(moved, 0.7).T_world_obj[-1, 0, 3].item() == pytest.approx(expected)
