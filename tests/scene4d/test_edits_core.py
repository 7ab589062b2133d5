"""Edits of scenes against closed forms, edited worlds and slow loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from renderers import Cameras, rasterize
from renderers.quaternions import rotate, unit
from scene4d.edits import (
    Duplicate,
    EditedScene,
    EditStack,
    Fade,
    Insert,
    Key,
    Placement,
    Recolour,
    Remove,
    Retime,
    Select,
    TimeMap,
    Transform,
    Trim,
    load_edited,
    read_stack,
    stack_of,
)
from scene4d.edits.operations import Operation
from scene4d.edits.placements import placed, turn_about
from scene4d.edits.selections import All, Instance, Named, Selection
from scene4d.files.project import Project
from scene4d.scene import Scene4D
from scene4d.worlds import arc_rig, make_world, poses_at
from tests.scene4d.random_scenes import random_scene, with_grad
from tests.scene4d.world_scenes import world_scene

BLOCK, BLOB = 2, 3
WORLD = make_world("room")


def room(sh_count: int = 4) -> Scene4D:
    return world_scene(WORLD, spacing=0.15, wall_spacing=0.5, sh_count=sh_count)


def of(*ids: int) -> Selection:
    return Instance(ids)


def moved(*by: float) -> Placement:
    return Placement((Key(move=by),))  # type: ignore[arg-type]


def edited(scene: Scene4D, *operations: Operation) -> EditedScene:
    return EditedScene(scene, stack_of(operations))


def positions(scene: EditedScene, t: float, instance: int) -> Tensor:
    return scene.at(t).means[scene.instances == instance]


def test_an_unedited_scene_gives_the_very_tensors_of_its_source() -> None:
    scene = room()
    plain = edited(scene)
    assert plain.at(0.3).sh is scene.sh and plain.at(0.3).log_scales is scene.log_scales
    assert torch.equal(plain.at(0.3).means, scene.at(0.3).means)
    assert plain.labels is scene.labels and plain.instances is scene.instances
    found = plain.provenance(0.3)
    assert torch.equal(found.parents, torch.arange(len(scene)))
    assert bool((found.source_times == 0.3).all()) and bool((found.scales == 1).all())
    assert torch.equal(found.rotations, torch.eye(3).expand(len(scene), 3, 3))
    assert not found.translations.any() and not found.appearance_changed.any()


def test_a_moved_instance_is_shifted_and_the_rest_stays_to_the_bit() -> None:
    scene = room()
    after = edited(scene, Transform(of(BLOCK), moved(0.3, -0.1, 0.2)))
    for t in (0.0, 0.45, 1.0):
        was, now = scene.at(t), after.at(t)
        block = scene.instances == BLOCK
        torch.testing.assert_close(now.means[block], was.means[block] + torch.tensor([0.3, -0.1, 0.2]))
        assert torch.equal(now.means[~block], was.means[~block])
        assert torch.equal(now.quats[~block], was.quats[~block])
        assert now.sh is scene.sh  # no turn: the very colours


def test_a_similarity_acts_on_positions_axes_and_sizes() -> None:
    scene = random_scene(12)
    turn = turn_about((1.0, 2.0, -1.0), 70.0)
    placement = Placement((Key(move=(0.5, 0.0, 1.0), turn=turn, scale=1.7),), pivot=(0.2, -0.3, 0.4))
    was, now = scene.at(0.4), edited(scene, Transform(All(), placement)).at(0.4)
    q, pivot = torch.tensor(turn).double(), torch.tensor([0.2, -0.3, 0.4]).double()
    expected = pivot + torch.tensor([0.5, 0.0, 1.0]) + 1.7 * rotate(q.expand(12, 4), was.means - pivot)
    torch.testing.assert_close(now.means, expected)
    torch.testing.assert_close(now.log_scales, was.log_scales + math.log(1.7))
    axis = torch.tensor([0.3, 0.5, -0.7]).double().expand(12, 3)
    torch.testing.assert_close(rotate(unit(now.quats), axis), rotate(q.expand(12, 4), rotate(unit(was.quats), axis)))


def test_keyed_placements_pass_their_keys_and_hold_outside() -> None:
    keys = (Key(0.2, (0.0, 0.0, 0.0)), Key(0.6, (1.0, 0.0, 0.0), turn_about((0.0, 0.0, 1.0), 90.0), 4.0))
    found = [placed(Placement(keys), t) for t in (-1.0, 0.2, 0.4, 0.6, 5.0)]
    assert [f.scale for f in found] == pytest.approx([1, 1, 2, 4, 4])
    assert [f.translation[0] for f in found] == pytest.approx([0, 0, 0.5, 1, 1])
    half = math.radians(45.0)
    np.testing.assert_allclose(
        found[2].rotation[:2, :2], [[math.cos(half), -math.sin(half)], [math.sin(half), math.cos(half)]]
    )
    smooth = placed(Placement(keys, ease="smooth"), 0.3)
    u = 3 * 0.25**2 - 2 * 0.25**3
    assert smooth.translation[0] == pytest.approx(u) and smooth.scale == pytest.approx(4**u)


def test_a_thing_turned_about_its_own_centre_keeps_that_centre_as_it_moves() -> None:
    scene = room()
    spin = Placement((Key(turn=turn_about((0.0, 0.0, 1.0), 120.0), scale=1.5),), pivot="center")
    after = edited(scene, Transform(of(BLOCK), spin))
    for t in (0.0, 0.5, 1.0):
        was, now = scene.at(t).means[scene.instances == BLOCK], positions(after, t, BLOCK)
        torch.testing.assert_close(
            now.mean(0), was.mean(0), atol=1e-2, rtol=0
        )  # the centre of 512 chosen rows or fewer
        torch.testing.assert_close(
            (now - now.mean(0)).norm(dim=1), 1.5 * (was - was.mean(0)).norm(dim=1), atol=1e-3, rtol=0
        )
        assert float((now - was).norm(dim=1).max()) > 0.1


def test_removed_rows_are_gone_and_the_others_keep_their_order() -> None:
    scene = room()
    after = edited(scene, Remove(of(BLOCK)))
    kept = (scene.instances != BLOCK).nonzero()[:, 0]
    assert len(after) == len(kept) and torch.equal(after.provenance(0.0).parents, kept)
    assert torch.equal(after.at(0.5).means, scene.at(0.5).means[kept])
    assert torch.equal(after.labels, scene.labels[kept])


def test_a_copy_is_a_new_instance_that_later_edits_can_take() -> None:
    scene = room()
    after = edited(
        scene,
        Duplicate(of(BLOCK), 7),
        Transform(of(7), moved(0.0, 0.4, 0.0)),
        Retime(of(7), TimeMap((0.0, 1.0), (0.25, 1.25))),
    )
    rows = (scene.instances == BLOCK).nonzero()[:, 0]
    assert torch.equal(after.provenance(0.0).parents[after.instances == 7], rows)
    expected = scene.at(0.5).means[rows] + torch.tensor([0.0, 0.4, 0.0])
    torch.testing.assert_close(positions(after, 0.25, 7), expected)
    assert torch.equal(positions(after, 0.25, BLOCK), scene.at(0.25).means[rows])


def test_removing_everything_leaves_an_empty_scene_that_renders() -> None:
    after = edited(room(), Remove(All()))
    assert len(after) == 0 and len(after.at(0.3)) == 0
    rig = arc_rig(WORLD, 32, 24).at(0)
    assert not rasterize(after.at(0.3), cameras_of(rig, 0)).alpha.any()


def test_clocks_compose_as_the_stack_does_and_keyed_moves_before_them_are_retimed_too() -> None:
    scene = room()
    keys = Placement((Key(0.0), Key(1.0, (1.0, 0.0, 0.0))))
    first, second = TimeMap((0.0, 1.0), (0.0, 0.5)), TimeMap((0.0, 1.0), (1.0, 0.0))
    after = edited(scene, Retime(of(BLOCK), first), Transform(of(BLOCK), keys), Retime(of(BLOCK), second))
    t = 0.25  # the later clock says 0.75, where the move stands at 0.75; the earlier one makes 0.375 of it
    expected = scene.at(0.375).means[scene.instances == BLOCK] + torch.tensor([0.75, 0.0, 0.0])
    torch.testing.assert_close(positions(after, t, BLOCK), expected)
    found = after.provenance(t)
    assert found.source_times[after.instances == BLOCK].unique().tolist() == [0.375]
    assert found.source_times[after.instances == BLOB].unique().tolist() == [0.25]


def test_provenance_takes_the_source_to_the_edited_scene() -> None:
    scene = room().to(dtype=torch.float64)
    spin = Placement((Key(0.0), Key(1.0, (0.1, 0.2, 0.3), turn_about((1.0, 1.0, 0.0), 50.0), 1.3)), pivot="center")
    after = edited(
        scene,
        Duplicate(of(BLOCK), 9, spin),
        Retime(of(9, BLOB), TimeMap((0.0, 1.0), (1.0, 0.0))),
        Transform(of(9), moved(0.0, 0.0, 0.2)),
        Recolour(of(BLOB), gain=(0.5, 1.0, 1.0)),
    )
    found, now = after.provenance(0.3), after.at(0.3)
    for time in found.source_times.unique().tolist():
        rows = found.source_times == time
        source = scene.at(time).means[found.parents[rows]]
        carried = (
            found.scales[rows, None] * (found.rotations[rows] @ source[..., None])[..., 0] + found.translations[rows]
        )
        torch.testing.assert_close(carried, now.means[rows])
    assert torch.equal(found.appearance_changed, after.instances == BLOB)


def test_named_selections_go_with_copies_and_removals() -> None:
    scene = room()
    after = edited(
        scene,
        Select("thing", of(BLOCK)),
        Duplicate(Named("thing"), 8),
        Remove(of(BLOB)),
        Transform(Named("thing"), moved(0.0, 0.0, 1.0)),
    )
    for instance in (BLOCK, 8):
        expected = scene.at(0.5).means[scene.instances == BLOCK] + torch.tensor([0.0, 0.0, 1.0])
        torch.testing.assert_close(positions(after, 0.5, instance), expected)


def test_gradients_reach_the_fitted_scene_through_edits() -> None:
    scene, leaves = with_grad(random_scene(10))
    spin = Placement((Key(0.0), Key(1.0, (0.1, 0.2, 0.3), turn_about((1.0, 1.0, 0.0), 50.0), 1.3)))
    after = edited(scene, Transform(All(), spin), Recolour(All(), gain=(2.0, 1.0, 1.0)), Fade(All(), (0.0,), (0.5,)))
    now = after.at(0.4)
    assert now.sh is not None
    sum(x.square().sum() for x in (now.means, now.quats, now.log_scales, now.logit_opacities, now.sh)).backward()
    for name in ("means", "quats", "log_scales", "logit_opacities", "sh", "rig.knot_translations"):
        grad = leaves[name].grad
        assert grad is not None and bool((grad != 0).any()), name
    torch.testing.assert_close(leaves["sh"].grad[:, 1:, 0], 8 * leaves["sh"].detach()[:, 1:, 0])  # d |2 D sh|^2


def test_the_same_edits_of_a_part_give_the_same_rows() -> None:
    scene = random_scene(30)
    rows = torch.arange(0, 30, 3)
    operations = (
        Transform(All(), Placement((Key(0.0), Key(1.0, (1.0, 0.0, 0.0), turn_about((0.0, 1.0, 0.0), 80.0))))),
        Retime(All(), TimeMap((0.0, 1.0), (0.9, 0.2), "smooth", "hold")),
    )
    whole, part = edited(scene, *operations).at(0.35), edited(scene.subset(rows), *operations).at(0.35)
    torch.testing.assert_close(whole.means[rows], part.means, rtol=0, atol=0)
    torch.testing.assert_close(whole.logit_opacities[rows], part.logit_opacities, rtol=0, atol=0)


# -- opacity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fades_multiply_opacities_and_a_factor_of_one_changes_no_bit(dtype: torch.dtype) -> None:
    scene = random_scene(20).to(dtype=dtype)
    scene = replace(
        scene, logit_opacities=torch.linspace(-30, 30, 20).to(dtype), t_on=None, t_off=None, log_softness=None
    )
    after = edited(scene, Fade(All(), (0.0, 1.0), (1.0, 0.0)))
    assert torch.equal(after.at(-1.0).logit_opacities, scene.logit_opacities)
    found = after.at(0.25).logit_opacities.double().sigmoid()
    torch.testing.assert_close(found, 0.75 * scene.logit_opacities.double().sigmoid(), rtol=1e-5, atol=0)
    gone = after.at(2.0).logit_opacities
    assert bool(gone.isfinite().all()) and float(gone.max()) < -80


def test_trim_shows_a_thing_only_within_its_times() -> None:
    scene = room()
    after = edited(scene, Trim(of(BLOB), 0.2, 0.6))
    blob = scene.instances == BLOB
    for t, shown in ((0.1, False), (0.2, True), (0.5, True), (0.7, False)):
        now = after.at(t).logit_opacities
        assert torch.equal(now[~blob], scene.logit_opacities[~blob])
        assert torch.equal(now[blob], scene.logit_opacities[blob]) if shown else float(now[blob].max()) < -80


# -- worlds ------------------------------------------------------------------------------------------------------------


def cameras_of(rig: Cameras, k: int) -> Cameras:
    return Cameras(rig.world_to_cam[k : k + 1].float(), rig.K[k : k + 1].float(), rig.width, rig.height)


# -- stacks as data ----------------------------------------------------------------------------------------------------


def every_operation() -> tuple[Operation, ...]:
    spin = Placement((Key(0.0), Key(0.7, (0.1, 0.0, 0.0), turn_about((0.0, 0.0, 1.0), 30.0), 1.1)), "center", "smooth")
    return (
        Select("thing", of(BLOCK)),
        Duplicate(Named("thing"), 5, moved(0.0, 0.3, 0.0)),
        Transform(of(5), spin),
        Retime(of(5), TimeMap((0.0, 0.5), (0.5, 0.0), "smooth", "pingpong")),
        Recolour(of(BLOB), (0.5, 1.5, 1.0), hue=40.0, saturation=0.5, offset=(0.1, 0.0, 0.0)),
        Fade(of(BLOB), (0.0, 1.0), (1.0, 0.25)),
        Trim(of(1), 0.1, None),
        Remove(of(1)),
    )


def test_a_stack_comes_back_from_json_as_it_was_and_gives_the_same_scene() -> None:
    stack = stack_of(every_operation()).switched(1, True).undo().switched(4, False)
    back = read_stack(json.loads(json.dumps(stack.to_json(), allow_nan=False)))
    assert back == stack and back.to_json() == stack.to_json()
    scene = room()
    a, b = EditedScene(scene, stack), load_edited(Project(scene, edits=tuple(stack.to_json())))
    for name in ("means", "quats", "log_scales", "logit_opacities", "sh"):
        assert torch.equal(getattr(a.at(0.3), name), getattr(b.at(0.3), name)), name


def test_undo_redo_and_switching_off() -> None:
    scene = room()
    first, second = Remove(of(BLOB)), Transform(of(BLOCK), moved(1.0, 0.0, 0.0))
    stack = EditStack().push(first).push(second)
    assert stack.undo().redo() == stack
    assert stack.undo().undo().redo() == stack.undo() and stack.undo().undo().redo().redo() == stack
    assert EditedScene(scene, stack.undo().undo()).is_plain
    assert stack.undo().push(first).undone == ()
    off = EditedScene(scene, stack.switched(0, False))
    assert len(off) == len(scene) and not off.is_plain and off.report[0] == ""
    with pytest.raises(ValueError, match="edit to undo"):
        EditStack().undo()
    with pytest.raises(ValueError, match="undone edit to redo"):
        stack.redo()
    with pytest.raises(ValueError, match="index must be below 2"):
        stack.switched(2, False)


def test_one_more_edit_is_the_same_as_the_whole_stack() -> None:
    scene = room()
    step = EditedScene(scene)
    for operation in every_operation():
        step = step.then(operation)
    whole = edited(scene, *every_operation())
    assert step.report == whole.report and step.stack == whole.stack
    assert torch.equal(step.at(0.6).means, whole.at(0.6).means)
    assert torch.equal(step.instances, whole.instances)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (Remove(of(44)), r"edit 2 \(remove\): instance must be one of \[0, 1, 2, 3\], got 44"),
        (Duplicate(of(BLOCK), BLOB), "instance must be new, got 3"),
        (Remove(Named("nobody")), "name must be one of the named selections"),
        (Insert("0" * 64, "chair", 9), "asset must be a scene of the project"),
        (Recolour(of(BLOB), lut="1" * 64), "lut must be a table of the project"),
    ],
)
def test_an_edit_that_cannot_be_applied_says_which_and_why(operation: Operation, message: str) -> None:
    scene = room()
    before = edited(scene, Transform(of(BLOCK), moved(1.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match=message):
        before.then(operation)
    with pytest.raises(ValueError, match=message):
        before.with_stack(before.stack.push(operation))
    assert len(before.stack.done) == 1


def test_unknown_fields_are_refused_wherever_they_stand() -> None:
    good = Transform(of(BLOCK), moved(1.0, 0.0, 0.0))
    for path in ((), ("select",), ("placement",), ("placement", "keys", 0)):
        (entry,) = json.loads(json.dumps(stack_of([good]).to_json()))
        node = entry
        for step in path:
            node = node[step]
        node["speed"] = 2.0
        with pytest.raises(ValueError, match="edit 1: .* must have no field but .*, got 'speed'"):
            read_stack([entry])


@pytest.mark.parametrize("t", [torch.zeros(4), math.nan, math.inf])
def test_times_of_edited_scenes_are_one_finite_number(t: float | Tensor) -> None:
    with pytest.raises(ValueError, match="t must be"):
        edited(room(), Remove(of(BLOB))).at(t)


def test_block_follows_its_world_pose() -> None:
    """The scene that the tests edit is what the world is."""
    scene = room()
    k = [o.name for o in WORLD.objects].index("block")
    pose = poses_at(WORLD, 0.5).T_world_obj[k]
    rest = scene.means[scene.instances == BLOCK].double()
    expected = rest @ pose[:3, :3].T + pose[:3, 3]
    torch.testing.assert_close(scene.at(0.5).means[scene.instances == BLOCK].double(), expected, atol=1e-5, rtol=0)


def test_placements_that_do_not_commute_follow_each_other_in_the_order_of_the_stack() -> None:
    scene = random_scene(8)
    first, second = turn_about((1.0, 0.0, 0.0), 90.0), turn_about((0.0, 0.0, 1.0), 90.0)
    a, b = Placement((Key(move=(1.0, 0.0, 0.0), turn=first),)), Placement((Key(turn=second, scale=2.0),))
    was, now = scene.at(0.4), edited(scene, Transform(All(), a), Transform(All(), b)).at(0.4)
    x, y, z = was.means.unbind(1)
    torch.testing.assert_close(now.means, 2 * torch.stack([z, x + 1, y], 1))  # (x, -z, y) + 1, then (-y, x, z)
    axis = torch.tensor([0.3, 0.5, -0.7]).double().expand(8, 3)
    x, y, z = rotate(unit(was.quats), axis).unbind(1)
    torch.testing.assert_close(rotate(unit(now.quats), axis), torch.stack([z, x, y], 1))


def test_keys_before_a_clock_are_retimed_and_keys_after_it_are_not() -> None:
    scene = room()
    along = Placement((Key(0.0), Key(1.0, (1.0, 0.0, 0.0))))
    clock = TimeMap((0.0, 1.0), (1.0, 0.0))
    block = scene.at(0.75).means[scene.instances == BLOCK]
    for order, by in (((True, False), 0.75), ((False, True), 0.25)):
        steps = [Transform(of(BLOCK), along) if keyed else Retime(of(BLOCK), clock) for keyed in order]
        found = positions(edited(scene, *steps), 0.25, BLOCK)
        torch.testing.assert_close(found, block + torch.tensor([by, 0.0, 0.0]))
