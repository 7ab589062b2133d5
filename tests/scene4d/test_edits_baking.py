"""Plain scenes made of edited ones, at times that are no samples, and what a world's own edits make of its scene."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from renderers import Cameras
from scene4d.channels import render_channels
from scene4d.edits import (
    Duplicate,
    EditedScene,
    Fade,
    Insert,
    Key,
    Placement,
    Recolour,
    Remove,
    Retime,
    TimeMap,
    Transform,
    Trim,
    stack_of,
)
from scene4d.edits.baking import bake_error, bake_scene, sample_times
from scene4d.edits.clocks import freeze, loop, reverse, speed
from scene4d.edits.operations import Operation
from scene4d.edits.placements import turn_about
from scene4d.edits.selections import All, Instance
from scene4d.edits.world_edits import operation_of_world, stack_of_world
from scene4d.scene import Scene4D
from scene4d.worlds import Duplicate as WorldDuplicate
from scene4d.worlds import (
    Edit,
    TimeWarp,
    arc_rig,
    make_world,
    poses_at,
    translation,
)
from scene4d.worlds import Insert as WorldInsert
from scene4d.worlds import Move as WorldMove
from scene4d.worlds import Remove as WorldRemove
from scene4d.worlds import Retime as WorldRetime
from scene4d.worlds import edited as edited_world
from tests.scene4d.random_scenes import random_rig, random_scene
from tests.scene4d.world_scenes import world_scene

SPIN = Placement((Key(move=(0.3, 0.1, -0.2), turn=turn_about((1.0, 2.0, 0.5), 77.0), scale=1.6),), (0.1, 0.2, 0.3))
SWAY = Placement((Key(0.0), Key(1.0, (0.5, 0.0, 0.0), turn_about((0.0, 0.0, 1.0), 60.0))))
GROW = Placement((Key(0.0), Key(1.0, scale=2.0)))


def tree(seed: int = 0) -> Scene4D:
    """A tree of handles of two instances, rows on several, residuals and windows, some rows without handles."""
    rig = random_rig([3, 1, 4, 5, 2], [-1, 0, -1, 1, 3], instances=[1, 1, 2, 1, 1], seed=seed)
    scene = random_scene(24, rig=rig, seed=seed)
    assert scene.handle_ids is not None
    ids = scene.handle_ids.clone()
    ids[::5] = -1
    assert scene.t_on is not None and scene.t_off is not None
    return replace(scene, handle_ids=ids, t_off=torch.maximum(scene.t_on, scene.t_off))


def same(edited: EditedScene, plain: Scene4D, times: tuple[float, ...], tolerance: float = 1e-9) -> None:
    assert torch.equal(edited.instances, plain.instances) and torch.equal(edited.labels, plain.labels)
    for t in times:
        a, b = edited.at(t), plain.at(t)
        for name in ("means", "log_scales", "sh"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=tolerance, rtol=1e-7)
        seen = a.logit_opacities > -60  # beyond it, fades stop counting
        torch.testing.assert_close(a.logit_opacities[seen], b.logit_opacities[seen], atol=1e-7, rtol=1e-7)
        qa, qb = (torch.nn.functional.normalize(g.quats, dim=1) for g in (a, b))
        torch.testing.assert_close((qa * qb).sum(1).abs(), torch.ones(len(qa)).to(qa), atol=1e-9, rtol=0)


EXACT: dict[str, tuple[Operation, ...]] = {
    "placed": (Transform(Instance((1,)), SPIN),),
    "placed twice": (Transform(All(), SPIN), Transform(Instance((2,)), SPIN)),
    "copied": (Duplicate(Instance((1,)), 7, SPIN), Transform(Instance((7,)), SPIN)),
    "copied from several": (Duplicate(All(), 7),),
    "removed": (Remove(Instance((2,))),),
    "faster": (Retime(Instance((1,)), speed(2.5, 0.3)),),
    "retimed twice": (Retime(All(), speed(2.0, 0.1)), Retime(Instance((2,)), speed(0.5, 0.6))),
    "backwards twice": (Retime(All(), speed(-2.0, 0.1)), Transform(All(), SPIN), Retime(All(), speed(-0.5, 0.6))),
    "frozen": (Retime(Instance((1,)), freeze(0.37)), Transform(Instance((1,)), SPIN)),
    "painted and thinned": (Recolour(All(), (0.5, 1.0, 2.0), 50.0), Fade(Instance((1,)), (0.0,), (0.3,))),
}


@pytest.mark.parametrize("name", list(EXACT))
def test_what_a_plain_scene_can_hold_is_baked_exactly(name: str) -> None:
    edited = EditedScene(tree(), stack_of(EXACT[name]))
    plain = bake_scene(edited)
    plain.validate()
    same(edited, plain, (-0.5, 0.0, 0.123, 0.5, 0.77, 1.4))
    error = bake_error(edited, plain)
    assert error.sampled == 0 and error.position < 1e-9


def test_an_unedited_scene_bakes_to_itself() -> None:
    scene = tree()
    assert EditedScene(scene).bake_scene() is scene
    assert len(EditedScene(scene, stack_of([Remove(All())])).bake_scene()) == 0


def test_straight_handles_run_backwards_exactly() -> None:
    scene = tree()
    assert scene.rig is not None
    scene = replace(scene, rig=replace(scene.rig, interpolations=torch.zeros_like(scene.rig.interpolations)))
    edited = EditedScene(scene, stack_of([Retime(All(), speed(-0.5, 0.4)), Transform(All(), SPIN)]))
    same(edited, bake_scene(edited), (-0.5, 0.0, 0.123, 0.5, 0.77, 1.4))


def test_inserted_scenes_are_baked_with_their_motion() -> None:
    asset, key = tree(3), "b" * 64
    edited = EditedScene(tree(), stack_of([Insert(key, "tree", 9, SPIN, speed(2.0))]), {key: asset})
    same(edited, bake_scene(edited), (0.0, 0.31, 0.8))
    now, own = edited.at(0.2), asset.at(0.4)
    assert float((now.log_scales[24:] - own.log_scales).mean()) == pytest.approx(math.log(1.6))


def without_residuals(scene: Scene4D) -> Scene4D:
    return replace(scene, residuals=None, t_ref=None)


@pytest.mark.parametrize("own", [False, True])
def test_motion_that_is_sampled_is_exact_at_the_samples_and_gets_nearer_with_more(own: bool) -> None:
    """Twice the samples of a smooth motion, a quarter of the error. `own`: sizes change, so each row gets a handle."""
    scene = world_scene(WORLD, spacing=0.3, wall_spacing=1.5, dtype=torch.float64)
    bent = TimeMap((0.0, 1.0), (0.0, 0.05), "smooth", "hold")  # within one interval of the scene's own knots
    placements = (SWAY, GROW) if own else (SWAY,)
    steps = [Transform(Instance((BLOCK,)), placement) for placement in placements]
    edited = EditedScene(scene, stack_of([*steps, Retime(Instance((BLOCK,)), bent)]))
    errors = []
    for count in (9, 17, 33):
        times = torch.linspace(0, 1, count).tolist()
        plain = bake_scene(edited, times)
        assert plain.rig is not None and (len(plain.rig) > 12) == own
        at_sample = edited.at(times[3]).means - plain.at(times[3]).means
        assert float(at_sample.abs().max()) < 1e-6
        found = bake_error(edited, plain, times)
        assert found.sampled == int((scene.instances == BLOCK).sum())
        errors.append(found.position)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3) and errors[1] / errors[2] == pytest.approx(4, rel=0.3)


def test_a_cubic_handle_that_runs_backwards_is_sampled() -> None:
    """Its rotations are products that do not commute: read backwards they are another curve."""
    edited = EditedScene(tree(), stack_of([Retime(All(), speed(-0.5, 0.4))]))
    times = torch.linspace(-0.5, 1.5, 41).tolist()
    plain = bake_scene(edited, times)
    torch.testing.assert_close(edited.at(times[7]).means, plain.at(times[7]).means, atol=1e-6, rtol=1e-6)
    assert bake_error(edited, plain, times).sampled > 0


def test_handles_are_shared_where_they_can_be() -> None:
    edited = EditedScene(without_residuals(tree()), stack_of([Transform(Instance((1,)), SWAY)]))
    plain = bake_scene(edited)
    assert plain.rig is not None and len(plain.rig) < 10
    grown = bake_scene(EditedScene(without_residuals(tree()), stack_of([Transform(Instance((1,)), GROW)])))
    assert grown.rig is not None and len(grown.rig) > int((grown.instances == 1).sum())


def test_a_trim_becomes_a_window() -> None:
    scene = replace(tree(), t_on=None, t_off=None, log_softness=None)
    edited = EditedScene(scene, stack_of([Trim(Instance((1,)), 0.2, 0.6)]))
    plain = bake_scene(edited, torch.linspace(0, 1, 101).tolist())
    one = plain.instances == 1
    for t, shown in ((0.1, 0.0), (0.3, 1.0), (0.5, 1.0), (0.7, 0.0)):
        found = plain.at(t).logit_opacities[one].sigmoid()
        torch.testing.assert_close(found, shown * scene.logit_opacities[one].sigmoid(), atol=1e-6, rtol=0)


def test_samples_must_increase() -> None:
    edited = EditedScene(tree(), stack_of([Transform(All(), SWAY)]))
    for bad in ([0.5], [0.0, 0.0], []):
        with pytest.raises(ValueError, match="times must increase"):
            bake_scene(edited, bad)
    times = sample_times(edited.state)
    assert len(times) >= 17 and times[0] < times[-1]


# -- worlds ------------------------------------------------------------------------------------------------------------

WORLD = make_world("room")
BLOCK = 2
TURN = ((0.0, -1.0, 0.0, 0.2), (1.0, 0.0, 0.0, 0.1), (0.0, 0.0, 1.0, 0.3), (0.0, 0.0, 0.0, 1.0))
WORLD_EDITS: dict[str, tuple[Edit, ...]] = {
    "move": (WorldMove(BLOCK, TURN),),
    "remove": (WorldRemove(BLOCK),),
    "duplicate": (WorldDuplicate(BLOCK, TURN, 6), WorldMove(6, translation(0.1, 0.0, 0.2))),
    "retime": (WorldRetime(BLOCK, TimeWarp((0.0, 0.5, 1.0), (1.0, 0.25, 0.5))),),
    "all": (
        WorldMove(BLOCK, TURN),
        WorldRetime(BLOCK, TimeWarp((0.0, 1.0), (1.0, 0.0))),
        WorldDuplicate(BLOCK, translation(0.0, 0.5, 0.0), 6),
        WorldRetime(6, TimeWarp((0.0, 1.0), (0.5, 0.5))),
        WorldRemove(3),
    ),
}


@pytest.mark.parametrize("name", list(WORLD_EDITS))
def test_an_edited_scene_of_a_world_is_the_scene_of_the_edited_world(name: str) -> None:
    """Rigid objects at times whose own time is that of a knot: exact to the rounding of float64."""
    scene = world_scene(WORLD, spacing=0.2, wall_spacing=0.9, dtype=torch.float64)
    found = EditedScene(scene, stack_of_world(WORLD_EDITS[name]))
    truth = edited_world(WORLD, WORLD_EDITS[name])
    rest = {o.name: scene.means[scene.labels == k] for k, o in enumerate(WORLD.objects)}
    for t in (0.0, 0.5, 1.0):
        poses, now = poses_at(truth, t), found.at(t)
        seen = 0
        for k, obj in enumerate(truth.objects):
            origin = obj.origin or obj.name
            label = [o.name for o in WORLD.objects].index(origin)
            mine = (found.labels == label) & (found.instances == obj.instance)
            T = poses.T_world_obj[k]
            expected = rest[origin] @ T[:3, :3].T + T[:3, 3]
            torch.testing.assert_close(now.means[mine], expected, atol=1e-9, rtol=0)
            seen += int(mine.sum())
        assert seen == len(found)


def test_pictures_of_an_edited_scene_and_of_its_plain_one_are_equal() -> None:
    scene = world_scene(WORLD, spacing=0.15, wall_spacing=0.4, sh_count=4)
    edited = EditedScene(scene, stack_of_world(WORLD_EDITS["all"]))
    plain = edited.bake_scene()
    rig = arc_rig(WORLD, 64, 48).at(0)
    cameras = Cameras(rig.world_to_cam[1:3], rig.K[1:3], 64, 48)
    for t in (0.1, 0.8):
        a, b = (render_channels(s, cameras, t, ("rgb", "id"), backend="cpu") for s in (edited, plain))
        apart = (a["rgb"] - b["rgb"]).abs()
        assert float(apart.mean()) < 1e-6 and float(apart.max()) < 2 / 255  # rounding may cross the 1/255 threshold
        assert float((a["id"] != b["id"]).float().mean()) < 1e-3


def test_an_insert_of_a_world_has_no_counterpart() -> None:
    with pytest.raises(ValueError, match="must not be an Insert"):
        operation_of_world(WorldInsert(()))


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "points"),
    [
        (speed(2.0, 1.0), {0.0: -1.0, 1.0: 1.0, 3.0: 5.0}),
        (reverse(0.0, 2.0), {-1.0: 2.0, 0.0: 2.0, 0.5: 1.5, 2.0: 0.0, 3.0: 0.0}),
        (freeze(0.7), {-3.0: 0.7, 0.0: 0.7, 9.0: 0.7}),
        (loop(1.0, 3.0), {0.5: 2.5, 1.0: 1.0, 2.5: 2.5, 3.5: 1.5, 7.25: 1.25}),
        (loop(0.0, 1.0, pingpong=True), {0.25: 0.25, 1.25: 0.75, 2.25: 0.25, -0.25: 0.25}),
        (TimeMap((0.0, 1.0, 3.0), (0.0, 2.0, 1.0)), {0.5: 1.0, 2.0: 1.5, 5.0: 0.0, -1.0: -2.0}),
        (TimeMap((0.0, 1.0), (0.0, 4.0), "smooth", "hold"), {0.25: 0.625, 0.5: 2.0, 2.0: 4.0}),
        (TimeMap((0.0, 1.0), (0.0, 4.0), "in"), {0.5: 1.0}),
        (TimeMap((0.0, 1.0), (0.0, 4.0), "out"), {0.5: 3.0}),
    ],
)
def test_clocks_by_hand(clock: TimeMap, points: dict[float, float]) -> None:
    from scene4d.edits.clocks import warped

    assert {t: warped(clock, t) for t in points} == pytest.approx(points)
