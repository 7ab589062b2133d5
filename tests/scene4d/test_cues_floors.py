"""The floors of cues on the room: roles, colours and confidence against the truth of rays, for six edits, with exact
geometry and with the faults of an estimated one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderers import Cameras
from scene4d.cues.exact import WorldGeometry, world_frame
from scene4d.cues.frames import make_cue
from scene4d.cues.geometry import dilate
from scene4d.cues.leave_one_out import calibrate
from scene4d.cues.reliability import brier, expected_calibration_error, sparsification
from scene4d.cues.roles import EXPAND, PRESERVE, REVEAL
from scene4d.worlds import trace
from tests.scene4d.cue_worlds import (
    BLOCK,
    EDITS,
    HEIGHT,
    WIDTH,
    captured,
    iou,
    labels_of,
    observed_pixels,
    psnr,
    recall,
    shown,
    traced,
)

SEEN_SHARE = 0.005  # of the pixels: a role with less has no intersection over union worth asking for


@pytest.fixture(scope="module", params=[False, True], ids=["exact", "noisy"])
def noisy(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(scope="module")
def frames(noisy: bool):
    calibration = calibrate(labels_of(noisy))
    assert not calibration.uncalibrated
    return {name: shown(name, noisy, calibration) for name in EDITS}


@pytest.mark.parametrize("name", EDITS)
def test_preserve_expand_and_reveal_are_found(frames, noisy: bool, name: str) -> None:
    found = frames[name]
    assert iou(found, PRESERVE) >= (0.95 if noisy else 0.98)
    pixels = len(found) * WIDTH * HEIGHT
    if sum(int((f.roles.roles == EXPAND).sum()) for f in found) > SEEN_SHARE * pixels:
        assert iou(found, EXPAND) >= (0.98 if noisy else 0.995)
    if sum(int((f.roles.roles == REVEAL).sum()) for f in found) > SEEN_SHARE * pixels:
        assert recall(found, REVEAL) >= 0.95


def test_camera_edit_shows_all_three_roles_and_edits_show_two(frames) -> None:
    for role in (PRESERVE, REVEAL, EXPAND):
        assert sum(int((f.roles.roles == role).sum()) for f in frames["camera"]) > 300
    for name in ("move", "remove", "retime"):
        assert sum(int((f.roles.roles == REVEAL).sum()) for f in frames[name]) > 300


def test_off_the_band_hardly_anything_is_preserve_that_is_not(frames) -> None:
    wrong = total = 0
    for found in frames.values():
        for f in found:
            off = ~f.roles.band & ~f.roles.asset & (f.roles.roles != PRESERVE)
            wrong, total = wrong + int((off & (f.cue.roles == PRESERVE)).sum()), total + int(off.sum())
    assert total > 2000 and wrong <= 0.001 * total


def test_hard_and_soft_roles_sum_to_one_exactly(frames) -> None:
    for found in frames.values():
        for f in found:
            assert (f.cue.soft_roles.sum(-1) == 1).all() and (f.cue.soft_roles >= 0).all()
            assert int(f.cue.roles.max()) <= EXPAND


def test_confidence_learned_on_the_source_holds_for_edits(frames, noisy: bool) -> None:
    c, raw, difference = (np.concatenate(x) for x in zip(*(observed_pixels(f) for f in frames.values()), strict=True))
    error = np.abs(difference).mean(1)
    right = (error <= 0.06).astype(float)
    after, before = expected_calibration_error(c, right), expected_calibration_error(raw, right)
    assert after <= 0.02 and after <= before / 5
    assert brier(c, right) < brier(raw, right)
    assert sparsification(c, error)["ause"] < sparsification(raw, error)["ause"]


def test_cue_shows_the_true_colour_and_confident_pixels_most_of_all(frames, noisy: bool) -> None:
    found = {name: observed_pixels(f) for name, f in frames.items()}
    for c, _, difference in found.values():
        assert psnr(difference) >= (28.0 if noisy else 30.0)
        assert psnr(difference[c >= 0.8]) > psnr(difference)
    c, difference = (np.concatenate([f[i] for f in found.values()]) for i in (0, 2))
    assert (c >= 0.8).mean() > 0.8
    assert psnr(difference[c >= 0.8]) >= psnr(difference) + 1.0


def test_copy_and_retimed_thing_that_were_seen_hardly_need_painting(frames) -> None:
    for name, instance in (("duplicate", 7), ("retime", BLOCK)):
        for f in frames[name]:
            mine = (f.truth.ids[0] == instance) & ~f.roles.band & (f.roles.roles == PRESERVE)
            assert mine.sum() > 200
            assert ((f.cue.roles != PRESERVE) & mine).sum() <= 0.03 * mine.sum()


def test_footprint_of_a_removed_thing_is_never_preserved_by_the_thing(frames, noisy: bool) -> None:
    room = captured(noisy)
    for f in frames["remove"]:
        before = trace(room.world, f.cue.camera, f.cue.time, 1)
        footprint = (before.ids[0] == BLOCK) & f.cue.observed
        rows, columns = footprint.nonzero().unbind(1)
        assert len(rows) > 100
        # what the views that gave the colour show at these pixels' surface points is background, not the block
        K, pose = f.cue.camera.K[0].double(), f.cue.camera.world_to_cam[0].double()
        pixel = torch.stack([columns + 0.5, rows + 0.5, torch.ones(len(rows))], -1).double()
        cam = (pixel @ torch.linalg.inv(K).T) * f.truth.depth[0][footprint][:, None].double()
        world = (cam - pose[:3, 3]) @ pose[:3, :3]
        for s in f.cue.provenance[footprint].unique().tolist():
            own = f.cue.provenance[footprint] == s
            there = world[own] @ room.cameras[s].world_to_cam[0, :3, :3].T + room.cameras[s].world_to_cam[0, :3, 3]
            uv = there @ room.cameras[s].K[0].T
            u, v = (uv[:, :2] / uv[:, 2:]).long().unbind(1)
            block = room.prepared.views.instances[s] == BLOCK
            inner = ~dilate(~block, 2 if noisy else 0)  # 1 % of depth and 1 cm are a pixel or two
            assert not inner[v, u].any()


def test_identity_edit_with_its_own_frame_is_the_picture_itself() -> None:
    room = captured(False)
    for k in (0, 5):
        cue = make_cue(room.prepared, room.frame(k))
        picture = room.prepared.views.images[k].float() / 255
        assert (cue.roles == PRESERVE).float().mean() >= 0.99
        assert psnr((cue.image - picture)[cue.observed].numpy()) >= 40.0


def test_camera_that_turns_around_sees_what_must_be_expanded() -> None:
    room = captured(False)
    back = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0])).double() @ room.cameras[6].world_to_cam[0]
    camera = Cameras(back[None], room.cameras[6].K, WIDTH, HEIGHT)
    cue = make_cue(room.prepared, world_frame(WorldGeometry(room.world, room.world), camera, room.times[6]))
    assert (cue.roles == EXPAND).float().mean() >= 0.95


def test_inserted_asset_is_a_stratum_of_its_own_with_its_rendered_colours(frames) -> None:
    for f in frames["insert"]:
        assert torch.equal(f.cue.asset, f.roles.asset) and f.cue.asset.sum() > 200
        assert not (f.cue.observed & f.cue.asset).any() and (f.cue.provenance[f.cue.asset] == -1).all()
        assert torch.equal(f.cue.image[f.cue.asset], f.image[f.cue.asset])


def test_true_roles_of_the_camera_edit_are_those_of_the_moved_camera() -> None:
    _, camera, truth, roles = traced("camera", 1)
    assert camera.width == WIDTH and truth.depth.shape[1:] == roles.roles.shape
    assert (roles.roles == PRESERVE).float().mean() > 0.6
