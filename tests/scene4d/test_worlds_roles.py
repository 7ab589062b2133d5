"""Exact roles against scenes whose roles are known, and against a slow check of single pixels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from renderers import Cameras
from scene4d.worlds import (
    Duplicate,
    Insert,
    Move,
    Remove,
    Retime,
    TimeWarp,
    World,
    arc_rig,
    edited,
    make_world,
    moving_rig,
    poses_at,
    trace,
    translation,
)
from scene4d.worlds.library import still
from scene4d.worlds.roles import EXPAND, PRESERVE, REVEAL, TrueRoles, true_roles
from scene4d.worlds.types import Box, WorldObject

W, H = 64, 48
CRATE, BLOCK, BLOB = 1, 2, 3
TIMES = [k / 5 for k in range(6)]


def room_views(world: World) -> list[tuple[Cameras, float]]:
    rig = moving_rig(world, len(TIMES), W, H)
    return [(rig.at(k), t) for k, t in enumerate(TIMES)]


def looked_at(
    world: World, views: list[tuple[Cameras, float]], after: World, camera: Cameras, time: float
) -> TrueRoles:
    known = {o.name for o in world.objects}
    inserted = [o.name for o in after.objects if o.name not in known and not o.origin]
    return true_roles(world, after, camera, time, [c for c, _ in views], [t for _, t in views], inserted)


def roles_of(world: World, after: World, k: int = 3) -> TrueRoles:
    views = room_views(world)
    return looked_at(world, views, after, views[k][0], TIMES[k])


def ids_of(after: World, k: int = 3) -> Tensor:
    return trace(after, room_views(after)[k][0], TIMES[k], samples=1).ids[0]


def test_identity_edit_at_a_source_camera_is_preserve_everywhere() -> None:
    world = make_world("room")
    found = roles_of(world, world)
    assert (found.roles == PRESERVE).all() and not found.asset.any()


def test_camera_that_looks_away_sees_only_what_must_be_expanded() -> None:
    world = make_world("room")
    views = room_views(world)
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])).double() @ views[0][0].world_to_cam
    found = looked_at(world, views, world, Cameras(back, views[0][0].K, W, H), 0.0)
    assert (found.roles == EXPAND).float().mean() > 0.95


def test_pixels_outside_the_picture_of_a_single_view_are_expand_and_no_other() -> None:
    """One view, and a target with the same centre and twice the field of view: the inner quarter was seen."""
    world = make_world("plane_sphere")
    camera = arc_rig(world, W, H).at(0)
    one = Cameras(camera.world_to_cam[:1], camera.K[:1], W, H)
    K = camera.K[:1].clone()
    K[:, 0, 0] /= 2
    K[:, 1, 1] /= 2
    found = looked_at(world, [(one, 0.0)], world, Cameras(one.world_to_cam, K, W, H), 0.0).roles
    inner = torch.zeros(H, W, dtype=torch.bool)
    inner[H // 4 : H - H // 4, W // 4 : W - W // 4] = True
    assert torch.equal(found == PRESERVE, inner) and torch.equal(found == EXPAND, ~inner)


def test_what_a_removed_thing_hid_from_the_only_view_is_reveal() -> None:
    world = make_world("room")
    view = room_views(world)[:1]
    before = trace(world, view[0][0], 0.0, samples=1)
    found = looked_at(world, view, edited(world, [Remove(CRATE)]), view[0][0], 0.0)
    assert torch.equal(found.roles == REVEAL, before.ids[0] == CRATE)
    assert torch.equal(found.roles == PRESERVE, before.ids[0] != CRATE)


def test_moved_copied_and_retimed_things_are_preserve_on_the_side_that_was_seen() -> None:
    world = make_world("room")
    for edit, instance in (
        (Move(BLOCK, translation(0.1, 0.0, 0.1)), BLOCK),
        (Duplicate(BLOB, translation(-0.3, 0.0, 0.5), 7), 7),
        (Retime(BLOCK, TimeWarp((0.0, 1.0), (0.2, 0.6))), BLOCK),
    ):
        after = edited(world, [edit])
        found, mine = roles_of(world, after), ids_of(after) == instance
        assert mine.sum() > 60 and (found.roles[mine] == PRESERVE).float().mean() > 0.93


def test_far_side_of_a_turned_thing_is_reveal() -> None:
    world = make_world("room")
    x, y = -0.95, 0.55  # the crate stands there
    turn = ((-1.0, 0.0, 0.0, 2 * x), (0.0, -1.0, 0.0, 2 * y), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    after = edited(world, [Move(CRATE, turn)])
    found, mine = roles_of(world, after), ids_of(after) == CRATE
    assert (found.roles[mine] == REVEAL).float().mean() > 0.6


def test_inserted_thing_is_asset_and_nothing_else_is() -> None:
    world = make_world("room")
    box = WorldObject("new", 9, Box((0.2, 0.2, 0.2)), motion=still(0.2, 0.0, 0.2))
    after = edited(world, [Insert((box,))])
    found = roles_of(world, after)
    assert torch.equal(found.asset, ids_of(after) == 9) and found.asset.sum() > 50
    assert (found.roles[found.asset] == PRESERVE).all()


def test_single_pixels_agree_with_a_walk_through_all_views() -> None:
    """Project the surface point into every view and compare with its traced depth and rest point there."""
    world = make_world("room")
    after = edited(world, [Remove(BLOB), Move(CRATE, translation(0.5, -0.3, 0.0))])
    views = room_views(world)
    camera = arc_rig(world, W, H).at(0)
    camera = Cameras(camera.world_to_cam[7:8], camera.K[7:8], W, H)
    found = looked_at(world, views, after, camera, 0.4).roles
    truth = trace(after, camera, 0.4, samples=1)
    names = [o.name for o in world.objects]
    traced = [trace(world, c, t, samples=1).depth[0] for c, t in views]
    checked = wrong = 0
    for i in range(2, H, 5):
        for j in range(2, W, 5):
            k = names.index(after.objects[int(truth.parts[0, i, j])].name)
            point = torch.cat([truth.rest_points[0, i, j].double(), torch.ones(1).double()])
            seen = False
            for (view, t), depth in zip(views, traced, strict=True):
                cam = (view.world_to_cam[0] @ poses_at(world, t).T_world_rest[k] @ point)[:3]
                u, v, _ = (view.K[0] @ cam / cam[2]).tolist()
                if cam[2] > 0 and 0 <= u < W and 0 <= v < H:
                    near = depth[math.floor(v), math.floor(u)]
                    seen |= float(cam[2]) < float(near) * 1.02
            checked += 1
            wrong += seen != bool(found[i, j] == PRESERVE)
    assert checked == 130 and wrong <= 3  # at edges the traced depth of the pixel's centre is another's
