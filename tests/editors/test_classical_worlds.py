"""The editor `classical` on edited worlds with exact truth, against painting frame by frame and the copied render."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from editors.classical.benchmark import cue_classical
from scene4d.benchmarks.baselines import copy_render
from scene4d.benchmarks.cue_baseline import cue_inpaint
from scene4d.benchmarks.world_edits import asked_of, make_scenes
from scene4d.benchmarks.world_items import Size, write_world_item
from scene4d.errors import InputError
from scene4d.files.images import read_png
from scene4d.metrics.benchmark_items import Item, load_item
from scene4d.metrics.region_motion import temporal_error

PRESERVE, REVEAL, EXPAND = 0, 1, 2
SIZE = Size(64, 48, 5, 1)


@dataclass(frozen=True)
class Done:
    """An item and three results on it; [T, H, W, 3] in [0, 1]."""

    item: Item
    truth: Tensor
    roles: Tensor  # [T, H, W]
    results: dict[str, Tensor]


def made(folder: Path, kind: str, level: int) -> Done:
    """An edit of the room: its crate removed or moved, or another camera."""
    scene = next(s for s in make_scenes() if s.name == "room")
    (folder / "items").mkdir()
    (folder / "sources").mkdir()
    item = load_item(folder, write_world_item(folder, scene, asked_of(scene, kind, level), SIZE))

    def read(layer: str) -> Tensor:
        files = sorted((item.folder / layer).glob("*.png"))
        return torch.from_numpy(np.stack([np.ascontiguousarray(read_png(path)) for path in files]))

    results = {"classical": cue_classical(item), "each": cue_inpaint(item), "render": copy_render(item)}
    return Done(item, read("truth") / 255.0, read("roles"), {name: x / 255.0 for name, x in results.items()})


@pytest.fixture(scope="module")
def removed(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return made(tmp_path_factory.mktemp("remove"), "remove", 0)


@pytest.fixture(scope="module")
def swung(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return made(tmp_path_factory.mktemp("camera"), "camera", 1)


def error(done: Done, name: str, role: int) -> float:
    """Mean square error in a role."""
    mask = done.roles == role
    assert mask.sum() > 100
    return float((done.results[name] - done.truth).square().mean(-1)[mask].mean())


def flicker(done: Done, name: str, role: int) -> float:
    with np.load(done.item.folder / "geometry.npz", allow_pickle=False) as arrays:
        flow, visible = torch.from_numpy(arrays["flow"]), torch.from_numpy(arrays["visible"])
    found = temporal_error(done.results[name], flow, visible, done.roles == role).value
    assert found is not None
    return found


def test_removed_thing_leaves_a_place_nearer_to_the_truth_than_painting_frames_and_the_copied_render(
    removed: Done,
) -> None:
    ours = error(removed, "classical", REVEAL)
    assert ours < 0.9 * error(removed, "each", REVEAL)
    assert ours < 0.5 * error(removed, "render", REVEAL)


def test_place_of_a_removed_thing_is_steadier_than_when_each_frame_is_painted(removed: Done) -> None:
    assert flicker(removed, "classical", REVEAL) < 0.5 * flicker(removed, "each", REVEAL)


def test_another_camera_reveals_and_extrapolates_nearer_to_the_truth(swung: Done) -> None:
    for role in (REVEAL, EXPAND):
        assert error(swung, "classical", role) < 0.9 * error(swung, "each", role)
        assert error(swung, "classical", role) < error(swung, "render", role)


def test_extrapolated_surroundings_are_steadier_than_when_each_frame_is_painted(swung: Done) -> None:
    assert flicker(swung, "classical", EXPAND) < 0.7 * flicker(swung, "each", EXPAND)


def test_preserve_is_as_near_to_the_truth_as_the_cue_is(removed: Done, swung: Done) -> None:
    for done in (removed, swung):
        assert error(done, "classical", PRESERVE) <= 1.01 * error(done, "each", PRESERVE)


def test_item_that_is_not_of_a_world_is_refused(removed: Done, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="has no world.json"):
        cue_classical(replace(removed.item, folder=tmp_path))
