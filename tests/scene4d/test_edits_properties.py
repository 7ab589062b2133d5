"""Properties of edits in general: any edits undone are none, stored ones are the same, invalid ones change nothing."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from renderers import Cameras, rasterize
from scene4d.edits import (
    Duplicate,
    EditedScene,
    EditStack,
    Fade,
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
)
from scene4d.edits.codec import to_json
from scene4d.edits.operations import Operation, read_operation
from scene4d.edits.placements import turn_about
from scene4d.edits.selecting import selected
from scene4d.edits.selections import (
    All,
    Box,
    Flood,
    Grow,
    Instance,
    Invert,
    Mask,
    Masks,
    Named,
    Rows,
    Screen,
    Selection,
    Sphere,
    Subtract,
    Union,
    View,
)
from scene4d.errors import InputError
from scene4d.files.project import Project, load_project, save_project, update_project
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_hash
from scene4d.worlds import arc_rig, make_world
from tests.scene4d.random_scenes import random_rig, random_scene
from tests.scene4d.world_scenes import world_scene

NUMBERS = st.floats(-2, 2, width=32)
TIMES = st.floats(-1, 2, width=32)
TENSORS = ("means", "quats", "log_scales", "logit_opacities", "sh")


def small_scene() -> Scene4D:
    rig = random_rig([3, 1, 4, 5, 2], [-1, 0, -1, 1, 3], instances=[1, 1, 2, 1, 1])
    return random_scene(15, rig=rig)


def keys() -> st.SearchStrategy[tuple[Key, ...]]:
    turn = st.builds(turn_about, st.just((1.0, 2.0, 0.5)), st.floats(-200, 200))
    key = st.builds(Key, TIMES, st.tuples(NUMBERS, NUMBERS, NUMBERS), turn, st.floats(0.5, 2))
    unique = st.lists(key, min_size=1, max_size=3, unique_by=lambda k: k.time)
    return unique.map(lambda found: tuple(sorted(found, key=lambda k: k.time)))


def clocks() -> st.SearchStrategy[TimeMap]:
    times = st.lists(TIMES, min_size=2, max_size=4, unique=True).map(sorted)
    outside = st.sampled_from(["extend", "hold", "loop", "pingpong"])
    return times.flatmap(
        lambda t: st.builds(
            TimeMap,
            st.just(tuple(t)),
            st.tuples(*[TIMES] * len(t)),
            st.sampled_from(["linear", "smooth", "in", "out"]),
            outside,
        )
    )


class Edits(RuleBasedStateMachine):
    """Edits pushed, undone, redone and switched in any order, on one scene."""

    @initialize()
    def start(self) -> None:
        self.scene = small_scene()
        self.hash = scene_hash(self.scene)
        self.edited = EditedScene(self.scene)
        self.history: list[tuple[EditStack, Any]] = []

    def _selections(self, draw: st.DataObject) -> Selection:
        ids = self.edited.instances.unique().tolist()
        plain = [
            All(),
            Instance((draw.draw(st.sampled_from(ids)),)),
            Rows(((0, len(self.edited)),)),
            Subtract((All(), Rows(((0, 1),)))),
        ]
        names = [Named(name) for name in self.edited.state.named]
        return draw.draw(st.sampled_from(plain + names))

    def _push(self, operation: Operation) -> None:
        before = (self.edited.stack, self.edited.at(0.3))
        try:
            after = self.edited.then(operation)
        except ValueError:  # nothing left to select: nothing has changed
            assert self.edited.stack == before[0]
            return
        self.history.append(before)
        self.edited = after

    @precondition(lambda self: len(self.edited))
    @rule(data=st.data(), found=keys(), center=st.booleans())
    def place(self, data: st.DataObject, found: tuple[Key, ...], center: bool) -> None:
        self._push(Transform(self._selections(data), Placement(found, "center" if center else (0.1, 0.2, 0.3))))

    @precondition(lambda self: len(self.edited))
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self._push(Remove(self._selections(data)))

    @precondition(lambda self: 0 < len(self.edited) < 200)
    @rule(data=st.data(), found=keys(), number=st.integers(1, 12))
    def copy(self, data: st.DataObject, found: tuple[Key, ...], number: int) -> None:
        self._push(Duplicate(self._selections(data), number, Placement(found)))

    @precondition(lambda self: len(self.edited))
    @rule(data=st.data(), clock=clocks())
    def retime(self, data: st.DataObject, clock: TimeMap) -> None:
        self._push(Retime(self._selections(data), clock))

    @precondition(lambda self: len(self.edited))
    @rule(data=st.data(), gain=st.floats(0, 3), hue=st.floats(-180, 180))
    def paint(self, data: st.DataObject, gain: float, hue: float) -> None:
        self._push(Recolour(self._selections(data), (gain, 1.0, 1.0), hue))

    @precondition(lambda self: len(self.edited))
    @rule(data=st.data(), factor=st.floats(0, 1), start=TIMES)
    def thin(self, data: st.DataObject, factor: float, start: float) -> None:
        self._push(Fade(self._selections(data), (start, start + 0.5), (1.0, factor)))
        if len(self.edited):
            self._push(Trim(self._selections(data), start, start + 1))

    @precondition(lambda self: len(self.edited))
    @rule(data=st.data(), name=st.sampled_from(["a", "b"]))
    def name(self, data: st.DataObject, name: str) -> None:
        self._push(Select(name, self._selections(data)))

    @precondition(lambda self: self.history)
    @rule()
    def undo(self) -> None:
        stack, was = self.history.pop()
        self.edited = self.edited.with_stack(self.edited.stack.undo())
        assert self.edited.stack.done == stack.done
        self._same(self.edited.at(0.3), was)

    @precondition(lambda self: self.history)
    @rule()
    def undo_and_redo(self) -> None:
        now = self.edited.at(0.3)
        back = self.edited.with_stack(self.edited.stack.undo())
        again = back.with_stack(back.stack.redo())
        assert again.stack == self.edited.stack
        self._same(again.at(0.3), now)

    @rule()
    def store(self) -> None:
        stack = read_stack(json.loads(json.dumps(self.edited.stack.to_json(), allow_nan=False)))
        assert stack == self.edited.stack
        self._same(EditedScene(self.scene, stack).at(0.3), self.edited.at(0.3))

    @invariant()
    def rows_fit(self) -> None:
        N = len(self.edited)
        found, now = self.edited.provenance(0.7), self.edited.at(0.7)
        assert len(now) == N == len(found.parents) == len(self.edited.labels) == len(self.edited.instances)
        assert all(bool(getattr(now, name).isfinite().all()) for name in ("means", "quats", "log_scales", "sh"))

    def teardown(self) -> None:
        if not hasattr(self, "scene"):
            return
        stack = self.edited.stack
        while stack.done:
            stack = stack.undo()
        plain = self.edited.with_stack(stack)
        assert plain.is_plain and scene_hash(self.scene) == self.hash
        self._same(plain.at(0.3), self.scene.at(0.3))

    @staticmethod
    def _same(a: Any, b: Any) -> None:
        for name in TENSORS:
            assert torch.equal(getattr(a, name), getattr(b, name)), name


TestAnySequenceOfEdits = Edits.TestCase
TestAnySequenceOfEdits.settings = settings(
    max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


# -- stored ------------------------------------------------------------------------------------------------------------

WORLD = make_world("room")


def rich_stack() -> tuple[Operation, ...]:
    spin = Placement((Key(0.0), Key(0.7, (0.1, 0.0, 0.0), turn_about((0.0, 0.0, 1.0), 30.0), 1.1)), "center", "smooth")
    return (
        Select("thing", Union((Instance((2,)), Sphere((0.0, 0.0, 0.5), 0.2, 0.25)))),
        Duplicate(Named("thing"), 5, Placement((Key(move=(0.0, 0.3, 0.1)),))),
        Transform(Instance((5,)), spin),
        Retime(Instance((5,)), TimeMap((0.0, 0.5), (0.5, 0.0), "smooth", "pingpong")),
        Recolour(Instance((3,)), (0.5, 1.5, 1.0), hue=40.0, saturation=0.5),
        Fade(Invert(Instance((0, 2, 3))), (0.0, 1.0), (1.0, 0.25)),
        Trim(Instance((1,)), 0.1, None),
    )


def test_a_stack_saved_and_loaded_renders_identically(tmp_path: Path) -> None:
    scene = world_scene(WORLD, spacing=0.15, wall_spacing=0.5, sh_count=4)
    edited = EditedScene(scene)
    for operation in rich_stack():
        edited = edited.then(operation)
    save_project(tmp_path / "a.s4d", Project(scene))
    update_project(tmp_path / "a.s4d", edits=tuple(edited.stack.to_json()))
    back = load_edited(load_project(tmp_path / "a.s4d"), tmp_path / "a.s4d")
    rig = arc_rig(WORLD, 64, 48).at(0)
    cameras = Cameras(rig.world_to_cam[:2].float(), rig.K[:2].float(), 64, 48)
    for t in (0.0, 0.33, 0.9):
        a, b = (rasterize(s.at(t), cameras).image for s in (edited, back))
        assert torch.equal(a, b) and bool((a != rasterize(scene.at(t), cameras).image).any())


# -- invalid -----------------------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, True, "", "x", "-", "instance", -1, 10**400, 1e400, -1e400, float("nan"), 1.5, [], {}, [[]], [None], [1, 2],
    ["a", "b", "c"], {"kind": "all"}, {"kind": "instance", "ids": [99]}, {"kind": []}, "\x00\n", [1e308] * 3, [0] * 4,
)  # fmt: skip


def view() -> View:
    rig = arc_rig(WORLD, 16, 12).at(0)
    return View(tuple(rig.world_to_cam[0].double().flatten().tolist()), tuple(rig.K[0].flatten().tolist()), 16, 12)


def seeds() -> list[dict[str, Any]]:
    pictures = (
        Remove(Screen(view(), "lasso", ((0.0, 0.0), (9.0, 0.0), (9.0, 9.0)), through=True)),
        Remove(Masks((Mask(view(), (3, 10, 16 * 12 - 13)),))),
        Remove(Flood(Grow(Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)), 0.2), 0.5)),
    )
    return [json.loads(json.dumps(to_json(o))) for o in (*rich_stack(), *pictures)]


def spoiled(data: Any, chance: random.Random) -> Any:
    """A copy with one thing in it that is not right: another value, a missing key, a new one."""
    data = copy.deepcopy(data)
    places = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(data)
    node, key = chance.choice(places)
    action = chance.random()
    if action < 0.7:
        node[key] = chance.choice(ODD)
    elif action < 0.85:
        del node[key]
    elif isinstance(node, dict):
        node[chance.choice(["speed", "", "Kind", "of"])] = chance.choice(ODD)
    else:
        node.append(chance.choice(ODD))
    return data


def test_a_thousand_random_invalid_edits_are_refused_in_one_clear_line_and_change_nothing() -> None:
    scene = world_scene(WORLD, spacing=0.4, wall_spacing=1.5)
    edited = EditedScene(scene).then(rich_stack()[0])
    stack, before, chance = edited.stack, edited.at(0.3), random.Random(5)
    refused, tries, starts = 0, 0, seeds()
    while refused < 1000:
        tries += 1
        assert tries < 4000, "most of the spoiled edits must be invalid"
        data = spoiled(chance.choice(starts), chance)
        try:
            edited.then(read_operation(data))
        except ValueError as e:
            message = str(e)
            assert message and "\n" not in message and len(message) < 400 and message.isprintable(), repr(message)
            assert "must" in message, message
            refused += 1
        assert edited.stack is stack and len(edited.report) == 1
    now = edited.at(0.3)
    assert all(torch.equal(getattr(now, name), getattr(before, name)) for name in TENSORS)
    assert scene.means is edited.source.means and not selected(edited.state, Named("thing")).all()


def test_spoiled_stacks_on_disk_are_refused_by_entry_and_file() -> None:
    scene = world_scene(WORLD, spacing=0.4, wall_spacing=1.5)
    good = [to_json(o) for o in rich_stack()]
    for k, bad in (
        (2, {"kind": "melt"}),
        (0, {"kind": "remove"}),
        (6, {**good[6], "on": 1}),
        (3, {**good[3], "undone": True}),
    ):
        entries = [*good[:k], bad, *good[k + 1 :]]
        number = k + 2 if "undone" in bad else k + 1
        with pytest.raises(InputError, match=rf"edits.json: edit {number}: .*must"):
            load_edited(Project(scene, edits=tuple(entries)))
