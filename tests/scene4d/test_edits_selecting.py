"""Selections of a world whose objects are known, against closed forms and slow loops."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from scene4d.edits import Duplicate, EditedScene, Key, Placement, Remove, Select, Transform, stack_of
from scene4d.edits.codec import to_json
from scene4d.edits.lifting import footprint, label_votes, mask_runs, mask_tensor, of_neighbours, shape_mask
from scene4d.edits.selecting import selected, time_range
from scene4d.edits.selection_text import Context, parse_selection
from scene4d.edits.selections import (
    All,
    Box,
    Flood,
    Grow,
    Instance,
    Intersect,
    Invert,
    Label,
    Mask,
    Masks,
    Moving,
    Named,
    Rows,
    Screen,
    Selection,
    Shrink,
    Sphere,
    Subtract,
    Union,
    View,
    read_selection,
)
from scene4d.edits.state import initial_state
from scene4d.scene import Scene4D
from scene4d.worlds import arc_rig, make_world, trace
from tests.scene4d.world_scenes import world_scene

WORLD = make_world("room")
CRATE, BLOCK, BLOB = 1, 2, 3
W, H = 96, 72


@pytest.fixture(scope="module")
def scene() -> Scene4D:
    return world_scene(WORLD, spacing=0.1, wall_spacing=0.3)


def chosen(scene: Scene4D, select: Selection) -> Tensor:
    return selected(initial_state(scene), select)


def camera(k: int) -> Cameras:
    rig = arc_rig(WORLD, W, H).at(0)
    return Cameras(rig.world_to_cam[k : k + 1].double(), rig.K[k : k + 1].double(), W, H)


def view(k: int, time: float = 0.5) -> View:
    c = camera(k)
    return View(tuple(c.world_to_cam.flatten().tolist()), tuple(c.K.flatten().tolist()), W, H, time)


def agreement(found: Tensor, truth: Tensor) -> float:
    """Intersection over union."""
    return float((found & truth).sum()) / float((found | truth).sum())


# -- by what they are --------------------------------------------------------------------------------------------------


def test_instances_labels_and_rows_are_what_they_say(scene: Scene4D) -> None:
    assert torch.equal(chosen(scene, Instance((BLOB, CRATE))), (scene.instances == BLOB) | (scene.instances == CRATE))
    assert torch.equal(chosen(scene, Label((0,))), scene.labels == 0)
    rows = chosen(scene, Rows(((0, 2), (5, 1))))
    assert rows.nonzero()[:, 0].tolist() == [0, 1, 5]


def test_what_moves_is_the_two_objects_that_do(scene: Scene4D) -> None:
    """The blob only changes its shape, which the handles of this scene do not show."""
    assert scene.instances[chosen(scene, Moving())].unique().tolist() == [BLOCK]
    moved = EditedScene(
        scene, stack_of([Transform(Instance((CRATE,)), Placement((Key(0.0), Key(1.0, (0.0, 1.0, 0.0)))))])
    )
    assert moved.instances[selected(moved.state, Moving())].unique().tolist() == [CRATE, BLOCK]
    far = float((scene.at(1.0).means - scene.at(0.0).means).norm(dim=1).max())
    assert not chosen(scene, Moving(3 * far)).any()


def test_a_box_at_a_time_is_carried_by_identity(scene: Scene4D) -> None:
    at = scene.at(0.25).means[scene.instances == BLOCK]
    box = Box(tuple((at.amin(0) - 1e-3).tolist()), tuple((at.amax(0) + 1e-3).tolist()), 0.25)
    found = chosen(scene, box)
    assert torch.equal(found, scene.instances == BLOCK)
    edited = EditedScene(scene, stack_of([Transform(box, Placement((Key(move=(0.0, 0.0, 0.5)),)))]))
    shift = edited.at(1.0).means - scene.at(1.0).means  # long after: it has left the box
    torch.testing.assert_close(shift, torch.tensor([0.0, 0.0, 0.5]) * found[:, None], atol=1e-6, rtol=0)
    later = chosen(scene, Box(box.low, box.high, 1.0))
    assert agreement(later, found) < 0.9


def test_a_sphere_holds_what_is_within_its_radius(scene: Scene4D) -> None:
    found = chosen(scene, Sphere((0.1, -0.2, 1.0), 0.8, 0.75))
    slow = [math.dist(x, (0.1, -0.2, 1.0)) <= 0.8 for x in scene.at(0.75).means.tolist()]
    assert found.tolist() == slow and 0 < sum(slow) < len(slow)


def test_selections_see_what_earlier_edits_made(scene: Scene4D) -> None:
    edited = EditedScene(
        scene,
        stack_of([Remove(Instance((CRATE,))), Transform(Instance((BLOCK,)), Placement((Key(move=(50.0, 0.0, 0.0)),)))]),
    )
    box = Box((40.0, -10.0, -10.0), (60.0, 10.0, 10.0))
    assert edited.instances[selected(edited.state, box)].unique().tolist() == [BLOCK]
    with pytest.raises(ValueError, match="instance must be one of"):
        selected(edited.state, Instance((CRATE,)))


# -- in pictures -------------------------------------------------------------------------------------------------------


def test_votes_of_a_label_are_blending_weights_summed_one_pixel_at_a_time(scene: Scene4D) -> None:
    now, small = (
        scene.at(0.5),
        Cameras(camera(2).world_to_cam.float(), camera(2).K.float() * torch.tensor([1 / 8, 1 / 8, 1])[:, None], 12, 9),
    )
    labels = torch.randint(-1, 3, (9, 12), generator=torch.Generator().manual_seed(0))
    votes = label_votes(now, small, labels, 3)
    picked = torch.randperm(len(scene), generator=torch.Generator().manual_seed(1))[:400]
    ones = torch.zeros(len(scene), 400)
    ones[picked, torch.arange(400)] = 1  # a channel for each: forward, not backward
    for start in range(0, 400, 50):
        shown = rasterize(now, small, features=ones[:, start : start + 50], backend="torch").features
        assert shown is not None
        for k in range(3):
            torch.testing.assert_close(
                votes[picked[start : start + 50], k], shown[0][labels == k].sum(0), atol=1e-4, rtol=1e-4
            )


def mask_of(k: int, time: float, instance: int) -> Mask:
    truth = trace(WORLD, camera(k), time, samples=1)
    return Mask(view(k, time), mask_runs(truth.ids[0] == instance))


def test_masks_of_a_few_views_lift_to_their_object_and_its_hidden_side() -> None:
    scene = world_scene(WORLD, spacing=0.05, wall_spacing=0.15)
    select = Masks(tuple(mask_of(k, t, BLOCK) for k, t in ((0, 0.0), (2, 0.5), (4, 0.5), (5, 1.0))))
    found, block = chosen(scene, select), scene.instances == BLOCK
    assert agreement(found, block) > 0.9
    once = chosen(scene, replace(select, masks=select.masks[1:2]))
    assert 0.6 < agreement(once, block) < agreement(found, block)
    assert not (once & (scene.instances == 0)).sum() > 0.02 * block.sum()  # the wall behind it is not taken


def test_what_is_not_known_is_taken_from_neighbours_layer_by_layer() -> None:
    """A chain of points 1 apart, known at its ends, and a lonely one."""
    points = torch.tensor([[float(x), 0.0, 0.0] for x in (*range(20), 100)])
    known = torch.zeros(21, dtype=torch.bool)
    known[[0, 1, 18, 19]] = True
    values = torch.tensor([5, 5, *[9] * 16, 7, 7, 9], dtype=torch.int32)
    found = of_neighbours(points, known, values).tolist()
    assert found[:9] == [5] * 9 and found[11:20] == [7] * 9 and found[20] == 0


def test_footprints_are_the_weight_of_what_stands_alone() -> None:
    scene = world_scene(WORLD, spacing=0.3, wall_spacing=0.9)
    c = Cameras(camera(2).world_to_cam.float(), camera(2).K.float(), W, H)
    now = scene.at(0.5)
    inside = (label_votes(now, c, torch.zeros(H, W, dtype=torch.int64), 1)[:, 0] > 3).nonzero()[::7, 0]
    for i in inside.tolist():
        alone = Gaussians(
            *(getattr(now, f)[i : i + 1] for f in ("means", "quats", "log_scales", "logit_opacities")),
            sh=scene.sh[i : i + 1],
        )
        weight = float(label_votes(alone, c, torch.zeros(H, W, dtype=torch.int64), 1))
        expected = float(footprint(alone, c))
        assert weight <= 1.03 * expected  # what reaches over the border is not seen
        x = alone.means[0].double() @ camera(2).world_to_cam[0, :3, :3].T + camera(2).world_to_cam[0, :3, 3]
        u, v = (x[:2] / x[2] * camera(2).K[0, [0, 1], [0, 1]] + camera(2).K[0, :2, 2]).tolist()
        if 25 < u < W - 25 and 25 < v < H - 25:
            assert weight == pytest.approx(expected, rel=0.1)


def around(k: int, time: float, instance: int) -> tuple[float, float, float, float]:
    rows, columns = (trace(WORLD, camera(k), time, samples=1).ids[0] == instance).nonzero(as_tuple=True)
    return float(columns.min()), float(rows.min()), float(columns.max()) + 1, float(rows.max()) + 1


def test_a_rectangle_takes_what_is_visible_in_it_or_all_behind_it_too(scene: Scene4D) -> None:
    x0, y0, x1, y1 = around(2, 0.5, BLOCK)
    visible = chosen(scene, Screen(view(2), "rectangle", ((x0, y0), (x1, y1))))
    through = chosen(scene, Screen(view(2), "rectangle", ((x1, y1), (x0, y0)), through=True))
    c = camera(2)
    local = scene.at(0.5).means.double() @ c.world_to_cam[0, :3, :3].T + c.world_to_cam[0, :3, 3]
    u, v = (local[:, :2] / local[:, 2:] * c.K[0, [0, 1], [0, 1]] + c.K[0, :2, 2]).T
    inside = (local[:, 2] > 0) & (u >= x0) & (u < x1) & (v >= y0) & (v < y1)
    assert int((through ^ inside).sum()) <= 2  # centres on the border
    behind = through & (scene.instances == 0)
    assert int(behind.sum()) > 5 and float((visible & behind).sum()) < 0.35 * float(behind.sum())  # in the corners
    block = scene.instances == BLOCK
    faces = local[block, 2] < local[block, 2].median()
    assert float((visible[block] & faces).sum()) / float(visible[block].sum()) > 0.7  # of its back little
    assert bool(through[block].all()) and int(visible[block].sum()) > 0.3 * int(block.sum())


def test_shapes_on_the_screen_are_the_pixels_whose_centres_they_hold() -> None:
    lasso = Screen(view(0), "lasso", ((10.0, 5.0), (60.0, 12.0), (40.0, 60.0)))
    stroke = Screen(view(0), "brush", ((20.0, 20.0), (70.0, 50.0), (70.0, 60.0)), 6.0)
    found, painted = shape_mask(lasso), shape_mask(stroke)
    polygon = np.array(lasso.points, dtype=np.float32)
    wrong = 0
    for row in range(H):
        for column in range(W):
            p = (column + 0.5, row + 0.5)
            depth = cv2.pointPolygonTest(polygon, p, True)  # > 0 inside, in pixels
            wrong += abs(depth) > 1e-3 and bool(found[row, column]) != (depth > 0)
            away = min(segment_distance(p, a, b) for a, b in zip(stroke.points, stroke.points[1:], strict=False))
            wrong += bool(painted[row, column]) != (away <= 6.0)
    assert wrong == 0 and found.any() and painted.any()
    dot = shape_mask(Screen(view(0), "brush", ((30.0, 30.0),), 3.0))
    assert int(dot.sum()) == sum((x - 29.5) ** 2 + (y - 29.5) ** 2 <= 9 for x in range(W) for y in range(H))


def segment_distance(p: tuple[float, float], a: tuple[float, float], b: tuple[float, float]) -> float:
    a_, b_, p_ = np.array(a), np.array(b), np.array(p)
    u = float(np.clip((p_ - a_) @ (b_ - a_) / ((b_ - a_) @ (b_ - a_)), 0, 1))
    return float(np.linalg.norm(p_ - a_ - u * (b_ - a_)))


def test_masks_come_back_from_their_runs() -> None:
    g = torch.Generator().manual_seed(3)
    for share in (0.0, 0.3, 1.0):
        mask = torch.rand(H, W, generator=g) < share
        assert torch.equal(mask_tensor(Mask(view(0), mask_runs(mask))), mask)


# -- made of others ----------------------------------------------------------------------------------------------------


def test_sets_of_selections(scene: Scene4D) -> None:
    a, b = Instance((BLOCK, BLOB)), Instance((BLOB, CRATE))
    ids = scene.instances
    assert torch.equal(chosen(scene, Union((a, b))), ids > 0)
    assert torch.equal(chosen(scene, Intersect((a, b))), ids == BLOB)
    assert torch.equal(chosen(scene, Subtract((All(), a, b))), ids == 0)
    assert torch.equal(chosen(scene, Invert(a)), (ids == 0) | (ids == CRATE))


def test_growing_and_shrinking_against_all_pairs(scene: Scene4D) -> None:
    seed = Sphere((0.0, 0.0, 1.0), 0.9, 0.5)
    points, start = scene.at(0.5).means.double(), chosen(scene, seed)
    pairs = torch.cdist(points, points)
    grown = (pairs[:, start].amin(1) <= 0.3) | start
    assert torch.equal(chosen(scene, Grow(seed, 0.3, 0.5)), grown) and grown.sum() > start.sum()
    assert torch.equal(chosen(scene, Shrink(seed, 0.2, 0.5)), start & (pairs[:, ~start].amin(1) > 0.2))


def test_a_flood_fills_the_thing_it_starts_on_and_stops_at_what_moves_otherwise(scene: Scene4D) -> None:
    block = scene.instances == BLOCK
    first = Rows(((int(block.nonzero()[0, 0]), 1),))
    found = chosen(scene, Flood(first, 0.5, color=1.0, distance=0.25))
    assert agreement(found, block) > 0.95
    small = chosen(scene, Flood(first, 0.5, color=0.02, distance=0.25))
    assert bool((small <= found).all()) and small.sum() < found.sum()
    apart = Placement((Key(0.5, (0.02, 0.0, 0.0)), Key(1.0, (1.0, 0.0, 0.0))))  # touches it at 0.5 s, then goes
    edited = EditedScene(scene, stack_of([Duplicate(Instance((BLOCK,)), 9, apart)]))
    for motion, expected in ((None, [BLOCK]), (100.0, [BLOCK, 9])):
        flooded = selected(edited.state, Flood(first, 0.5, color=1.0, motion=motion, distance=0.25))
        assert edited.instances[flooded].unique().tolist() == expected


def test_named_selections_follow_the_stack(scene: Scene4D) -> None:
    edited = EditedScene(scene, stack_of([Select("it", Instance((BLOCK,))), Duplicate(Named("it"), 9)]))
    assert edited.instances[selected(edited.state, Named("it"))].unique().tolist() == [BLOCK, 9]


def test_time_range_is_that_of_knots_and_keys(scene: Scene4D) -> None:
    assert time_range(initial_state(scene)) == (0.0, 1.0)
    late = EditedScene(scene, stack_of([Transform(All(), Placement((Key(-1.0), Key(3.0))))]))
    assert time_range(late.state) == (-1.0, 3.0)


# -- as data and as text -----------------------------------------------------------------------------------------------

EVERY: tuple[Selection, ...] = (
    All(),
    Instance((2, 3)),
    Label((0,)),
    Moving(),
    Moving(0.25),
    Box((0.0, 0.0, 0.0), (1.0, 1.0, 2.0), 0.5),
    Sphere((0.0, 1.0, 0.0), 0.5),
    Rows(((0, 3), (7, 1))),
    Screen(view(0), "lasso", ((0.0, 0.0), (5.0, 0.0), (5.0, 5.0)), through=True),
    Masks((Mask(view(1), (10, 20, H * W - 30)),), 0.2),
    Flood(Instance((2,)), 0.5),
    Grow(Shrink(Named("a b"), 0.1), 0.2, 0.3),
    Subtract((Union((All(), Instance((0,)))), Intersect((All(), Invert(All()))))),
)


@pytest.mark.parametrize("select", EVERY, ids=lambda s: s.kind)
def test_selections_come_back_from_json(select: Selection) -> None:
    assert read_selection(json.loads(json.dumps(to_json(select)))) == select


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", All()),
        ("instance:2", Instance((2,))),
        ("instance:2,3 + label:4", Union((Instance((2, 3)), Label((4,))))),
        ("instance:2-label:3", Subtract((Instance((2,)), Label((3,))))),
        ("background", Instance((0,))),
        ("static", Invert(Moving())),
        ("moving:0.5", Moving(0.5)),
        ("box:-1,0,-.5,1e0,2,3.5@0.25", Box((-1.0, 0.0, -0.5), (1.0, 2.0, 3.5), 0.25)),
        ("sphere:0,0,1,0.5", Sphere((0.0, 0.0, 1.0), 0.5, 0.75)),
        ("rows:0..4,9", Rows(((0, 5), (9, 1)))),
        ('name:person & !name:"left arm"', Intersect((Named("person"), Invert(Named("left arm"))))),
        ("all - instance:1 & moving", Subtract((All(), Intersect((Instance((1,)), Moving()))))),
        ("(all - instance:1) & moving", Intersect((Subtract((All(), Instance((1,)))), Moving()))),
        ("grow:0.1@0.5(instance:2)", Grow(Instance((2,)), 0.1, 0.5)),
        ("shrink:0.1(name:a)", Shrink(Named("a"), 0.1, 0.75)),
        ("flood:0.2(rows:7)", Flood(Rows(((7, 1),)), 0.75, 0.2)),
        ("rect:cam00,1,2,30,40@0.5", Screen(view(0, 0.5), "rectangle", ((1.0, 2.0), (30.0, 40.0)))),
        ("through(brush:cam01,4,1,2,3,4)", Screen(view(1, 0.75), "brush", ((1.0, 2.0), (3.0, 4.0)), 4.0, True)),
    ],
)
def test_texts_stand_for_expressions(text: str, expected: Selection) -> None:
    context = Context(0.75, lambda name, t: view(int(name[-2:]), t), lambda name, v: Mask(v, (H * W,)))
    assert parse_selection(text, context) == expected


@pytest.mark.parametrize(
    "text",
    ["", "instance:", "instance:2.5", "instance:-1", "box:1,2,3", "box:1,0,0,0,1,1", "sphere:0,0,0,-1", "dog", "all:3",
     "(all", "all)", "all + ", "& all", "all all", "rows:5..2", "rows:3,1", "through(all)", "grow(all)", "name:", "!",
     "label:99999999999", "rect:cam00,1,2,3@0", "file:x.json", "mask:cam00", "all @ 3", "(" * 100 + "all"],
)  # fmt: skip
def test_texts_that_mean_nothing_are_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="selection|must") as caught:
        parse_selection(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
