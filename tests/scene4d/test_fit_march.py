"""The march in time, on a turning and flying sphere whose motion is known; and a fit that has to follow it.

J handles, k knots a handle, n points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scene4d import motion
from scene4d.captures import Capture, open_capture
from scene4d.evaluation import Evaluation, evaluate, fitted_capture
from scene4d.evaluation_views import EvaluationOptions
from scene4d.fitting.fit import fit_capture
from scene4d.fitting.footage import Footage, open_footage
from scene4d.fitting.losses import HandleGraph, handle_graph
from scene4d.fitting.march import carry_on, knot_times, window_at
from scene4d.fitting.model import Model, make_model
from scene4d.fitting.rigging import knot_schedule
from scene4d.fitting.rotations import matrix_quats
from scene4d.fitting.settings import PRESETS, FitSettings, with_changes
from scene4d.rig import Rig
from scene4d.runs import create_run
from scene4d.scene import Scene4D
from scene4d.worlds import CaptureOptions, arc_rig, capture_world, make_world, points_at, poses_at, sample_points

FRAMES, FPS = 9, 8.0  # of 1 s
WIDTH, HEIGHT = 80, 60
HOME = 4  # the frame at which the scene is canonical
SPHERE = 1  # index of the object in its world, and its instance
CPU = torch.device("cpu")
WORLD = make_world("plane_sphere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captures") / "ball"
    rig = arc_rig(WORLD, WIDTH, HEIGHT)
    keep = [0, 2, 3, 5, 6]  # four to fit to and one that is held out
    rig = replace(rig, names=tuple(rig.names[c] for c in keep), world_to_cam=rig.world_to_cam[keep])
    rig = replace(rig, test_cameras=rig.names[-1:])
    capture_world(WORLD, rig, out, CaptureOptions(frames=FRAMES, fps=FPS, samples=2, points=300, tracks=10))
    return out


def footage_of(folder: Path, frames: list[int] | None = None) -> Footage:
    """Of all frames, or some, without depth: tracks are made of flow."""
    capture = open_capture(folder)
    for track in capture.tracks.values():
        track.layers.pop("depth", None)
    return open_footage(capture, [v for v in capture.views if frames is None or v.frame in frames])


@pytest.fixture(scope="module")
def footage(folder: Path) -> Footage:
    return footage_of(folder)


# -- a scene of the truth, up to a moment


def pose_from(start: float, end: float) -> tuple[Tensor, Tensor]:
    """How the sphere moves between two times: R [3, 3] and shift [3], x' = R x + shift."""
    a, b = (poses_at(WORLD, t).T_world_rest[SPHERE] for t in (start, end))
    T = b @ torch.linalg.inv(a)
    return T[:3, :3].float(), T[:3, 3].float()


def moved(xyz: Tensor, start: float, end: float) -> Tensor:
    R, shift = pose_from(start, end)
    return xyz @ R.T + shift


def true_rig(centers: Tensor, times: Tensor, knows: Callable[[float], bool]) -> Rig:
    """Handles with the sphere's motion at the knots at known times; elsewhere they rest as at the nearest known one."""
    home, J = HOME / FPS, len(centers)
    known = [t for t in times.tolist() if knows(t)]
    quats, shifts = [], []
    for t in times.tolist():
        at = min(known, key=lambda other, t=t: abs(other - t))
        R, _ = pose_from(home, at)
        quats.append(matrix_quats(R[None]).expand(J, 4))
        shifts.append(moved(centers, home, at) - centers)
    return Rig(
        centers=centers,
        parents=torch.full((J,), -1, dtype=torch.int32),
        instances=torch.full((J,), SPHERE, dtype=torch.int32),
        interpolations=torch.ones(J, dtype=torch.int32),  # cubic
        knot_counts=torch.full((J,), len(times), dtype=torch.int32),
        knot_times=times.repeat(J),
        knot_quats=torch.stack(quats, 1).reshape(-1, 4).contiguous(),
        knot_translations=torch.stack(shifts, 1).reshape(-1, 3).contiguous(),
    )


def true_model(
    footage: Footage, knows: Callable[[float], bool], handles: int = 6, n: int = 300
) -> tuple[Model, HandleGraph]:
    """Gaussians on the sphere as cameras see it at HOME, each following its two nearest handles."""
    rig = arc_rig(WORLD, WIDTH, HEIGHT)
    points = sample_points(WORLD, rig.at(0), HOME / FPS, 2 * n)
    xyz = points_at(WORLD, points, HOME / FPS).float()[points.parts == SPHERE]
    count = len(xyz)
    centers = xyz[:: count // handles][:handles]
    moving = true_rig(centers, knot_schedule(0.0, 1.0, 0.125), knows)
    near = torch.cdist(xyz, centers).topk(min(2, handles), largest=False).indices.int()
    quats = torch.zeros(count, 4)
    quats[:, 0] = 1
    scene = Scene4D(
        means=xyz,
        quats=quats,
        log_scales=torch.full((count, 3), -3.5),
        logit_opacities=torch.full((count,), 2.0),
        sh=torch.zeros(count, 1, 3),
        labels=torch.zeros(count, dtype=torch.int32),
        instances=torch.full((count,), SPHERE, dtype=torch.int32),
        rig=moving,
        handle_ids=near,
        handle_logits=torch.zeros(near.shape),
    )
    model = make_model(scene, len(footage.camera_names), 3.0, FitSettings(), CPU)
    paths = torch.stack([moved(centers, HOME / FPS, k / FPS) for k in range(FRAMES)], 1)
    return model, handle_graph(moving, paths.flatten(1))


def chance(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def error_at(model: Model, t: float) -> float:
    """Median distance of the Gaussians from where the sphere would have taken them, metres."""
    scene = model.finished()
    return float((motion.positions(scene, t) - moved(scene.means, HOME / FPS, t)).norm(dim=1).median())


def knots(model: Model) -> tuple[Tensor, Tensor]:
    """[J, k, 4] and [J, k, 3]."""
    rig = model.rig
    assert rig is not None
    J = len(rig)
    return rig.knot_quats.detach().reshape(J, -1, 4).clone(), rig.knot_translations.detach().reshape(J, -1, 3).clone()


# -- the window


@pytest.mark.parametrize("origin", [0.0, 0.3, 0.5, 1.0])
def test_window_starts_around_the_origin_grows_on_both_sides_and_ends_with_all_knots(
    footage: Footage, origin: float
) -> None:
    model, _ = true_model(footage, lambda t: True)
    last = len(knot_times(model)) - 1
    middle = round(origin * last)
    found = [window_at(model, origin, share / 40) for share in range(41)]
    windows = [(w.low, w.high) for w in found]
    assert windows[0] == (max(0, middle - 1), min(last, middle + 1))
    assert windows[-1] == (0, last)
    for (low, high), (lower, higher) in zip(windows, windows[1:], strict=False):
        assert 0 <= low - lower <= 1 and 0 <= higher - high <= 1
    assert sum(w != (0, last) for w in windows) > 20  # not all at once
    assert sum(w == windows[0] for w in windows) >= 0.1 * 40  # the shape first


# -- carrying on


@pytest.mark.parametrize(("edge", "to"), [(4, 6), (4, 2), (5, 6)])
def test_scene_carried_on_is_nearer_to_the_truth_than_one_that_stays(footage: Footage, edge: int, to: int) -> None:
    sign = 1 if to > edge else -1
    model, graph = true_model(footage, lambda t: sign * t <= sign * edge / FPS + 1e-6)
    stays = [error_at(model, k / FPS) for k in range(edge + sign, to + sign, sign)]
    carry_on(footage, model, graph, edge, to, chance())
    goes = [error_at(model, k / FPS) for k in range(edge + sign, to + sign, sign)]
    assert min(stays) > 0.1
    for before, after in zip(stays, goes, strict=True):
        assert after < 0.15 * before


def test_handles_turn_with_what_they_carry(footage: Footage) -> None:
    model, graph = true_model(footage, lambda t: t <= 4 / FPS + 1e-6)
    carry_on(footage, model, graph, 4, 6, chance())
    R, _ = pose_from(HOME / FPS, 6 / FPS)
    truth = matrix_quats(R[None])[0]
    angle = 2 * torch.acos((knots(model)[0][:, 6] @ truth).abs().clamp_max(1.0))
    whole = 2 * torch.acos(truth[0].abs())
    assert float(whole) > 0.19 and float(angle.median()) < 0.5 * float(whole)


@pytest.mark.parametrize(("edge", "to"), [(4, 6), (4, 2)])
def test_knots_on_the_side_that_is_known_stay_bit_for_bit_and_only_the_others_lose_their_moments(
    footage: Footage, edge: int, to: int
) -> None:
    model, graph = true_model(footage, lambda t: True)
    assert model.rig is not None
    for name in ("knot_quats", "knot_translations"):
        tensor, optimizer = getattr(model.rig, name), model.optimizers[name]
        tensor.grad = torch.ones_like(tensor).to_sparse(1)
        optimizer.step()
        optimizer.zero_grad()
    before = knots(model)
    carry_on(footage, model, graph, edge, to, chance())
    known = slice(0, edge + 1) if to > edge else slice(edge, None)
    other = slice(edge + 1, None) if to > edge else slice(0, edge)
    for was, now in zip(before, knots(model), strict=True):
        assert torch.equal(was[:, known], now[:, known])
        assert not torch.isclose(was[:, other], now[:, other], rtol=0, atol=1e-7).all(-1).any()
    for name in ("knot_quats", "knot_translations"):
        state = model.optimizers[name].state[getattr(model.rig, name)]
        for key in ("exp_avg", "exp_avg_sq"):
            moments = state[key].reshape(*before[0].shape[:2], -1)
            assert bool((moments[:, other] == 0).all()) and bool((moments[:, known] > 0).all())


def test_the_same_chance_carries_a_scene_to_the_same_place(footage: Footage) -> None:
    found = []
    for seed in (0, 0, 1):
        model, graph = true_model(footage, lambda t: t <= 4 / FPS + 1e-6)
        carry_on(footage, model, graph, 4, 6, chance(seed))
        found.append(torch.cat([x.flatten() for x in knots(model)]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_knots_beyond_go_on_for_one_step_and_then_rest(footage: Footage) -> None:
    """One handle has no neighbours to agree with, so nothing is settled afterwards."""
    model, graph = true_model(footage, lambda t: t <= 3 / FPS + 1e-6, handles=1)
    assert len(graph.a) == 0
    carry_on(footage, model, graph, 3, 5, chance())
    quats, shifts = knots(model)
    torch.testing.assert_close(shifts[:, 6] - shifts[:, 5], shifts[:, 5] - shifts[:, 4])
    assert float((shifts[:, 5] - shifts[:, 4]).norm()) > 0.08
    ahead = (quats[:, 5] * quats[:, 4]).sum(1)
    torch.testing.assert_close((quats[:, 6] * quats[:, 5]).sum(1).abs(), ahead.abs(), rtol=0, atol=1e-3)
    assert not torch.equal(quats[:, 6], quats[:, 5])
    for rest in (7, 8):
        assert torch.equal(shifts[:, rest], shifts[:, 6]) and torch.equal(quats[:, rest], quats[:, 6])


def test_where_no_frames_are_left_handles_stay_as_they_were_at_the_edge(folder: Path) -> None:
    footage = footage_of(folder, [0, 1, 2, 3, 4, 5])  # the last three are held out
    model, graph = true_model(footage, lambda t: True)
    before = knots(model)
    carry_on(footage, model, graph, 5, 7, chance())
    for was, now in zip(before, knots(model), strict=True):
        for k in (6, 7, 8):
            torch.testing.assert_close(now[:, k], was[:, 5], rtol=0, atol=1e-5)


@pytest.mark.parametrize("handles", [1, 6])
def test_frames_that_are_missing_between_are_bridged(folder: Path, handles: int) -> None:
    footage = footage_of(folder, [0, 1, 2, 3, 4, 6, 7, 8])
    model, graph = true_model(footage, lambda t: t <= 4 / FPS + 1e-6, handles)
    stays = error_at(model, 5 / FPS)
    carry_on(footage, model, graph, 4, 5, chance())
    assert error_at(model, 5 / FPS) < 0.3 * stays


# -- a whole fit


def fitted(capture: Capture, runs: Path, handles: int) -> Evaluation:
    settings = with_changes(
        PRESETS["draft"],
        steps=250,
        max_gaussians=1500,
        handles=handles,
        checkpoint_steps=250,
        preview_steps=0,
        threads=1,
    )
    with create_run(runs, "fit", {}, progress=False) as run:
        found = fit_capture(capture, settings, run)
    capture, trained = fitted_capture(capture, None)
    views = [v for v in capture.views if v.key not in trained]
    return evaluate(
        found.scene, capture, views, trained=trained, options=EvaluationOptions(exposures=found.exposures, truth=False)
    )


def test_fit_shows_moments_that_it_has_not_seen_which_one_without_handles_cannot(folder: Path, tmp_path: Path) -> None:
    capture = open_capture(folder)
    groups = [fitted(capture, tmp_path / str(n), n).as_json()["groups"] for n in (12, 0)]
    whole = [g["held_out_times"]["full"]["psnr"] for g in groups]
    moving = [g["held_out_times"]["moving"]["psnr"] for g in groups]
    assert whole[0] > 33 and moving[0] > 31
    assert whole[0] > whole[1] + 8 and moving[0] > moving[1] + 12
