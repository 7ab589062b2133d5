"""The track loss knows right motion from wrong, and windows live through a fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from renderers import RasterOptions
from scene4d.captures import open_capture
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.losses import window_loss
from scene4d.fitting.model import make_model, model_from_state, model_state
from scene4d.fitting.settings import PRESETS, with_changes
from scene4d.fitting.start import Start, start_scene
from scene4d.fitting.track_loss import TrackLoss
from scene4d.fitting.train import Fit
from scene4d.scene import Scene4D
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world

SETTINGS = with_changes(PRESETS["draft"], steps=40, max_gaussians=1500, handles=12, threads=1)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    folder, world = tmp_path_factory.mktemp("captures") / "ball", make_world("plane_sphere")
    capture_world(world, arc_rig(world, 96, 72), folder, CaptureOptions(frames=9, samples=1, points=400, tracks=10))
    capture = open_capture(folder)
    return open_footage(capture, capture.split("train"))


@pytest.fixture(scope="module")
def start(footage: Footage) -> Start:
    return start_scene(footage, SETTINGS, (0.0, 1.0), 1 / 8)


def loss_of(scene: Scene4D, footage: Footage, frames: tuple[int, int]) -> torch.Tensor:
    a, b = (footage.capture.view("cam02", frame) for frame in frames)
    return TrackLoss(footage)(scene, footage.shot(a), (a, b), 1, RasterOptions(threads=1))


def at_rest(scene: Scene4D) -> Scene4D:
    assert scene.rig is not None
    quats = torch.zeros_like(scene.rig.knot_quats)
    quats[:, 0] = 1
    still = torch.zeros_like(scene.rig.knot_translations)
    return replace(scene, rig=replace(scene.rig, knot_quats=quats, knot_translations=still))


def test_tracked_motion_agrees_with_flow_and_rest_does_not(footage: Footage, start: Start) -> None:
    good = float(loss_of(start.scene, footage, (4, 5)))
    bad = float(loss_of(at_rest(start.scene), footage, (4, 5)))
    assert good < 1.6 / 96  # pixels, both axes together; outlines are blended from two motions
    assert bad > 2.5 / 96  # the sphere moves by several; what is further off than four counts as four


def test_the_gradient_leads_knots_back_to_the_motion(footage: Footage, start: Start) -> None:
    scene = start.scene
    assert scene.rig is not None
    generator = torch.Generator().manual_seed(0)
    shaken = scene.rig.knot_translations + 0.08 * torch.randn(scene.rig.knot_translations.shape, generator=generator)
    knots = shaken.clone().requires_grad_()
    optimizer = torch.optim.Adam([knots], lr=4e-3)
    values = []
    for step in range(90):
        pair = ((4, 5), (5, 6), (6, 5))[step % 3]
        loss = loss_of(replace(scene, rig=replace(scene.rig, knot_translations=knots)), footage, pair)
        values.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(values[-6:]) < 0.7 * sum(values[:6]), values[::6]


def test_neighbours_are_of_the_same_camera_and_next_to_the_frame(footage: Footage) -> None:
    tracks, view = TrackLoss(footage), footage.capture.view("cam01", 4)
    found = {tracks.neighbour(view, torch.Generator().manual_seed(seed)) for seed in range(12)}
    assert {(v.camera, v.frame) for v in found if v is not None} == {("cam01", 2), ("cam01", 5)}  # 3 is held out


def test_long_windows_are_cheap() -> None:
    on = torch.zeros(3)
    assert float(window_loss(on, torch.full((3,), 2.0), 1.0)) == pytest.approx(0.5)
    assert window_loss(on, torch.full((3,), 0.5), 1.0) > window_loss(on, torch.full((3,), 1.0), 1.0)
    assert float(window_loss(on, on - 1, 1.0)) == pytest.approx(50.0)  # crossed edges: finite


def test_a_fit_with_windows_trains_them_keeps_them_in_order_and_resumes(footage: Footage) -> None:
    settings = with_changes(SETTINGS, windows=True, lr_windows=0.05)
    first = start_scene(footage, settings, (0.0, 1.0), 1 / 8)
    model = make_model(first.scene, 8, first.size, settings, torch.device("cpu"))
    fit = Fit(footage, settings, model, first.graph, origin=first.origin)
    before = fit.model.finished()
    assert before.t_on is not None and before.t_off is not None
    assert float(before.t_on.max()) < 0 and float(before.t_off.min()) > 1
    for _ in range(20):
        told = fit.advance()
    assert "windows" in told
    again = model_from_state(model_state(fit.model), settings, torch.device("cpu"))
    assert again.duration == fit.model.duration == pytest.approx(1.2)
    after = fit.model.finished()
    assert after.t_on is not None and after.t_off is not None and not torch.equal(after.t_on[:500], before.t_on[:500])
    after.validate()
