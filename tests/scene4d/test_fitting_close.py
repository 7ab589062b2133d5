"""Close looks: what moves in front of a picture of the background, and the knots that a look changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from renderers import Cameras, rasterize
from scene4d.captures import open_capture
from scene4d.fitting.close import find_backdrops, moving_part, with_what_hides_it
from scene4d.fitting.footage import BOX_MARGIN, Box, Footage, open_footage
from scene4d.fitting.model import KNOTS, keep_near_knots, make_model
from scene4d.fitting.settings import FitSettings
from scene4d.fitting.train import FULL_EVERY, Fit
from scene4d.rig import Rig
from scene4d.scene import Scene4D
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world

WIDTH, HEIGHT = 160, 120
CPU = torch.device("cpu")
CAMERA = Cameras(torch.eye(4)[None], torch.tensor([[[150.0, 0, 80], [0, 150.0, 60], [0, 0, 1]]]), WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    out = tmp_path_factory.mktemp("captures") / "ball"
    world = make_world("plane_sphere")
    rig = arc_rig(world, WIDTH, HEIGHT)
    keep = [0, 3, 5]
    rig = replace(rig, names=tuple(rig.names[c] for c in keep), world_to_cam=rig.world_to_cam[keep], test_cameras=())
    capture_world(world, rig, out, CaptureOptions(frames=6, fps=6.0, samples=2, points=300, tracks=10))
    capture = open_capture(out)
    return open_footage(capture, capture.views)


def cloud(z: tuple[float, float], instance: int, count: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([-1.0, -0.8, z[0]]), torch.tensor([1.0, 0.8, z[1]])
    quats = torch.randn(count, 4, generator=g)
    return {
        "means": low + (high - low) * torch.rand(count, 3, generator=g),
        "quats": quats,
        "log_scales": torch.full((count, 3), -2.3) + 0.3 * torch.randn(count, 3, generator=g),
        "logit_opacities": torch.randn(count, generator=g),
        "sh": torch.randn(count, 1, 3, generator=g),
        "labels": torch.zeros(count, dtype=torch.int32),
        "instances": torch.full((count,), instance, dtype=torch.int32),
    }


def scene_of(*clouds: dict[str, Tensor]) -> Scene4D:
    return Scene4D(**{name: torch.cat([part[name] for part in clouds]) for name in clouds[0]})


def close_picture(scene: Scene4D, camera: Cameras, backdrop: Tensor) -> tuple[Tensor, int]:
    part = moving_part(scene, 0.0)
    assert part is not None
    gaussians = with_what_hides_it(part, scene, camera)
    rendering = rasterize(gaussians, camera)
    return rendering.image[0] + (1 - rendering.alpha[0, ..., None]) * backdrop, len(gaussians)


# -- pictures


def test_what_moves_before_a_picture_of_the_background_looks_like_the_whole_scene() -> None:
    still, moves = cloud((5, 6), 0, 150, 0), cloud((3, 3.5), 1, 40, 1)
    backdrop = rasterize(scene_of(still).at(0.0), CAMERA).image[0]
    whole = rasterize(scene_of(still, moves).at(0.0), CAMERA).image[0]
    close, drawn = close_picture(scene_of(still, moves), CAMERA, backdrop)
    assert drawn == 40
    assert float((whole - backdrop).abs().max()) > 0.3
    torch.testing.assert_close(close, whole, atol=2e-3, rtol=0)  # what little shines through 1e-4 of transmittance


def test_what_stands_before_it_hides_it_in_a_close_look_too() -> None:
    still, moves, front = cloud((5, 6), 0, 150, 0), cloud((3, 3.5), 1, 40, 1), cloud((2, 2.5), 0, 30, 2)
    front["logit_opacities"] += 8.0  # what shines through the front does so twice, before the backdrop and in it
    backdrop = rasterize(scene_of(still, front).at(0.0), CAMERA).image[0]
    whole = rasterize(scene_of(still, moves, front).at(0.0), CAMERA).image[0]
    close, drawn = close_picture(scene_of(still, moves, front), CAMERA, backdrop)
    inside = ((front["means"][:, :2] / front["means"][:, 2:] * 150).abs() < torch.tensor([80.0 + 4, 60 + 4])).all(1)
    assert 40 < drawn == 40 + int(inside.sum())
    alone, _ = close_picture(scene_of(still, moves), CAMERA, backdrop)  # as if nothing hid it
    hides = rasterize(scene_of(front).at(0.0), CAMERA).alpha[0]
    moving = rasterize(scene_of(moves).at(0.0), CAMERA).alpha[0]
    hidden, free = (hides > 0.99) & (moving > 0.2), (hides < 1e-3) & (moving > 0.2)
    assert int(hidden.sum()) > 20 and int(free.sum()) > 100
    assert float((alone - whole).abs().amax(-1)[hidden].mean()) > 0.1
    for part, most in ((hidden, 0.02), (free, 2e-3)):
        assert float((close - whole).abs().amax(-1)[part].max()) < most


def test_a_backdrop_is_the_mean_of_what_masks_leave_free(footage: Footage) -> None:
    name = footage.camera_names[0]
    views = footage.of_camera(name)
    marked = torch.full((HEIGHT, WIDTH, 3), 0.25)
    found = find_backdrops(footage, {name: marked})[name]
    free = torch.stack([footage.instances(v) == 0 for v in views])  # type: ignore[misc]
    pictures = torch.stack([footage.image(v) for v in views])
    for y, x in [(5, 7), (60, 80), (66, 83), (100, 30)]:
        kept = pictures[:, y, x][free[:, y, x]]
        expected = kept.mean(0) if len(kept) else marked[y, x]
        torch.testing.assert_close(found[y, x], expected)
    assert bool((~free).any(0).any())


def test_a_look_through_a_box_is_that_part_of_the_whole_look(footage: Footage) -> None:
    view = footage.views[4]
    whole, box = footage.shot(view), Box(16, 8, 64, 60)
    part = footage.shot(view, 1, box)
    assert torch.equal(part.image, whole.image[8:60, 16:64]) and part.backdrop is None
    assert part.depth is not None and whole.depth is not None and torch.equal(part.depth, whole.depth[8:60, 16:64])
    assert (part.camera.width, part.camera.height) == (48, 52)
    gaussians = scene_of(cloud((-1, 1), 1, 60, 3)).at(0.0)
    seen = [rasterize(gaussians, shot.camera).image[0] for shot in (whole, part)]
    # Jacobians of Gaussians far outside are taken at the picture's rim (3DGS), which is another
    torch.testing.assert_close(seen[1], seen[0][8:60, 16:64], atol=5e-3, rtol=0)
    small, quarter = footage.shot(view, 4), footage.shot(view, 4, box)
    torch.testing.assert_close(quarter.image, small.image[2:15, 4:16])
    torch.testing.assert_close(quarter.camera.K[0, :2, 2], small.camera.K[0, :2, 2] - torch.tensor([4.0, 2.0]))


def test_box_holds_all_that_moves_with_a_margin_on_multiples_of_four(footage: Footage) -> None:
    view = footage.views[4]
    ids, box = footage.instances(view), footage.moving_box(view)
    assert ids is not None and box is not None
    y, x = (ids > 0).nonzero().T
    low = torch.stack([x.min() - BOX_MARGIN, y.min() - BOX_MARGIN]).clamp_min(0)
    high = torch.stack([x.max() + 1 + BOX_MARGIN, y.max() + 1 + BOX_MARGIN]).clamp_max(torch.tensor([WIDTH, HEIGHT]))
    assert 0 <= int(low[0]) - box.left < 4 and 0 <= int(low[1]) - box.top < 4
    assert 0 <= box.right - int(high[0]) < 4 and 0 <= box.bottom - int(high[1]) < 4
    assert box.left % 4 == box.top % 4 == 0


def test_where_most_of_the_picture_moves_there_is_no_box(footage: Footage) -> None:
    view = footage.views[0]
    full = replace(footage, motion_masks={view.key: torch.ones(HEIGHT, WIDTH, dtype=torch.bool)})
    none = replace(footage, motion_masks={view.key: torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)})
    for changed in (full, none):
        changed._boxes.clear()
        assert changed.moving_box(view) is None
        changed._boxes.clear()


# -- what a step looks at


def fit_of(footage: Footage) -> Fit:
    scene = scene_of(cloud((-1, 1), 0, 50, 0), cloud((-0.5, 0.5), 1, 20, 1))
    model = make_model(scene, len(footage.camera_names), 3.0, FitSettings(), CPU)
    return Fit(footage, FitSettings(march=0.0), model, None)


def test_three_of_four_steps_look_at_what_moves_at_one_time_in_all_cameras(footage: Footage) -> None:
    backgrounds = {name: torch.zeros(HEIGHT, WIDTH, 3) for name in footage.camera_names}
    still = replace(footage, backdrops=find_backdrops(footage, backgrounds))
    fit = fit_of(still)
    for step in range(1, 9):
        looks = fit.looks(step)
        if step % FULL_EVERY == 0:
            (look,) = looks
            assert look.rows is None and look.probe is not None
        else:
            assert {look.view.camera for look in looks} == set(still.camera_names)
            assert len({look.view.frame for look in looks}) == 1
            assert all(look.rows is not None and look.rows.tolist() == list(range(50, 70)) for look in looks)


def test_of_a_camera_without_backdrop_a_close_look_is_a_part_of_the_whole_scene(footage: Footage) -> None:
    fit = fit_of(footage)
    (look,) = fit.looks(1)
    box = footage.moving_box(look.view)
    assert box is not None
    shrink = fit.shrink(1, look.view)
    assert (look.shot.camera.width, look.shot.camera.height) == (
        (box.right - box.left) // shrink,
        (box.bottom - box.top) // shrink,
    )
    drawn = rasterize(fit.model.scene().at(look.view.time), look.shot.camera).screen.radii[0, :, 0] > 0
    assert look.rows is not None and torch.equal(look.rows, drawn.nonzero()[:, 0]) and bool(drawn[:50].any())


# -- knots


def moving_model(knots: int) -> tuple[Scene4D, Rig]:
    scene = scene_of(cloud((3, 4), 1, 12, 5))
    quats = torch.zeros(2 * knots, 4)
    quats[:, 0] = 1
    rig = Rig(
        centers=torch.tensor([[0.0, 0, 3], [0, 0.5, 4]]),
        parents=torch.full((2,), -1, dtype=torch.int32),
        instances=torch.ones(2, dtype=torch.int32),
        interpolations=torch.ones(2, dtype=torch.int32),
        knot_counts=torch.full((2,), knots, dtype=torch.int32),
        knot_times=torch.linspace(0, 1, knots).repeat(2),
        knot_quats=quats,
        knot_translations=torch.zeros(2 * knots, 3),
    )
    slots = torch.arange(12, dtype=torch.int32)[:, None] % 2
    return replace(scene, rig=rig, handle_ids=slots, handle_logits=torch.zeros(12, 1)), rig


@pytest.mark.parametrize(("time", "near"), [(0.0, [0, 1]), (0.55, [4, 5, 6, 7]), (1.0, [8, 9, 10])])
def test_a_look_at_a_time_changes_the_knots_around_it_and_no_others(time: float, near: list[int]) -> None:
    scene, _ = moving_model(11)
    model = make_model(scene, 1, 1.0, FitSettings(), CPU)
    assert model.rig is not None
    before = {name: getattr(model.rig, name).detach().clone() for name in KNOTS}
    loss = model.scene().at(time).means.square().sum() + sum(getattr(model.rig, n).square().sum() for n in KNOTS)
    loss.backward()
    keep_near_knots(model, time)
    for name in KNOTS:
        model.optimizers[name].step()
        moved = (getattr(model.rig, name).detach() != before[name]).any(1).reshape(2, 11)
        for handle in moved:
            changed = handle.nonzero()[:, 0].tolist()
            assert set(changed) <= set(near) and changed


def test_a_knot_steps_as_far_however_rarely_it_is_seen() -> None:
    lengths = []
    for knots in (5, 41):  # the same time is one of few or of many
        scene, _ = moving_model(knots)
        model = make_model(scene, 1, 1.0, FitSettings(), CPU)
        rig = model.rig
        assert rig is not None
        for k in range(20 * knots):
            time = (k % knots) / (knots - 1)
            (model.scene().at(time).means[:, 0] - 5).sum().backward()
            keep_near_knots(model, time)
            for name in KNOTS:
                model.optimizers[name].step()
                model.optimizers[name].zero_grad(set_to_none=True)
        lengths.append(float(rig.knot_translations.detach().reshape(2, knots, 3)[0, knots // 2, 0]))
    assert lengths[0] < 0
    assert 0.5 < lengths[1] / lengths[0] < 2  # with Adam it is six: it goes on after a knot was seen
