"""Depth, flow and tracks against a world's truth: scenes made of the truth itself, whole, shifted and incomplete.

N Gaussians, J objects and handles, T times.
"""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from renderers import Gaussians
from scene4d.captures import Capture, open_capture
from scene4d.errors import InputError
from scene4d.evaluation import evaluate
from scene4d.evaluation_tracks import bilinear, paths_at_pixels, predict_tracks
from scene4d.evaluation_truth import WorldTruth, find_truth, true_cameras
from scene4d.evaluation_views import EvaluationOptions
from scene4d.rig import Rig
from scene4d.scene import Scene4D, static_scene
from scene4d.worlds import CaptureOptions, World, arc_rig, capture_world, make_world, poses_at, trace

WIDTH, HEIGHT, FRAMES = 120, 90, 5
# Of the splats that reach a pixel the nearest win, and each is blurred by a pixel: where a surface is oblique, depth is
# too small by about the footprint of a pixel, 3.1 m / 112 px.
FOOTPRINT = 0.03  # metres
SMALL = CaptureOptions(frames=FRAMES, samples=2, points=100, tracks=60)
C0 = 0.28209479177387814  # of the first spherical harmonic
CENTRE = (2, 3)  # training cameras in the middle of the arc


def surface_scene(world: World, times: list[float], spacing: float = 0.018) -> Scene4D:
    """A small round Gaussian on every surface point that the cameras see at `times`, with the objects' true motion.

    Objects are rigid; each is one handle with a knot at each time. Canonical is the first time.
    """
    cameras = arc_rig(world, WIDTH, HEIGHT).at(0)
    parts, rest, colors = [], [], []
    for time in times:
        seen = trace(world, cameras, time, samples=1)
        there = seen.parts >= 0
        parts.append(seen.parts[there])
        rest.append(seen.rest_points[there])
        colors.append(seen.images[there])
    part, point, color = torch.cat(parts).long(), torch.cat(rest).double(), torch.cat(colors)
    cells = torch.cat([part[:, None].double(), (point / spacing).round()], 1)
    _, inverse = cells.unique(dim=0, return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(part)).scatter_reduce(0, inverse, torch.arange(len(part)), "amin")
    part, point, color = part[first], point[first], color[first]
    poses = torch.stack([poses_at(world, time).T_world_rest for time in times])  # [T, J, 4, 4]
    start = poses[0, part]
    means = (start[:, :3, :3] @ point[..., None])[..., 0] + start[:, :3, 3]
    N, J, T = len(part), len(world.objects), len(times)
    turns = poses[:, :, :3, :3] @ poses[0, :, :3, :3].mT
    centers = poses[0, :, :3, 3]
    instances = torch.tensor([o.instance for o in world.objects], dtype=torch.int32)
    rig = Rig(
        centers=centers.float(),
        parents=torch.full((J,), -1, dtype=torch.int32),
        instances=instances,
        interpolations=torch.zeros(J, dtype=torch.int32),
        knot_counts=torch.full((J,), T, dtype=torch.int32),
        knot_times=torch.tensor(times).repeat(J),
        knot_quats=quaternions(turns).transpose(0, 1).reshape(-1, 4).float(),
        knot_translations=(poses[:, :, :3, 3] - centers).transpose(0, 1).reshape(-1, 3).float(),
    )
    return Scene4D(
        means=means.float(),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(N, 1),
        log_scales=torch.full((N, 3), math.log(0.8 * spacing)),
        logit_opacities=torch.zeros(N),
        sh=((color - 0.5) / C0)[:, None],
        labels=torch.zeros(N, dtype=torch.int32),
        instances=instances[part],
        rig=rig,
        handle_ids=part[:, None].int(),
        handle_logits=torch.zeros(N, 1),
    )


def quaternions(rotations: Tensor) -> Tensor:
    """wxyz [..., 4] of rotations [..., 3, 3] by less than half a turn."""
    w = (1.0 + rotations.diagonal(dim1=-2, dim2=-1).sum(-1)).sqrt() / 2
    skew = rotations - rotations.mT
    return torch.stack([w, *(skew[..., i, j] / (4 * w) for i, j in ((2, 1), (0, 2), (1, 0)))], -1)


def later_shift(scene: Scene4D, shift: Sequence[float]) -> Scene4D:
    """The scene with everything moved after its first knot."""
    assert scene.rig is not None
    late = (scene.rig.knot_times > 0).float()[:, None] * torch.tensor(shift)
    return replace(scene, rig=replace(scene.rig, knot_translations=scene.rig.knot_translations + late))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world("plane_sphere")
    out = tmp_path_factory.mktemp("captures") / "plane_sphere"
    capture_world(world, arc_rig(world, WIDTH, HEIGHT), out, SMALL)
    return out


@pytest.fixture(scope="module")
def capture(folder: Path) -> Capture:
    return open_capture(folder)


@pytest.fixture(scope="module")
def scene(capture: Capture) -> Scene4D:
    return surface_scene(make_world("plane_sphere"), [capture.at(k)[0].time for k in capture.frames])


def truth_of(scene: Scene4D, capture: Capture) -> dict:
    views = [capture.view(f"cam0{c}", frame) for c in CENTRE for frame in (0, 2)]
    found = evaluate(scene, capture, views).truth
    assert found is not None
    return found


def test_scene_made_of_the_truth_has_hardly_any_error(scene: Scene4D, capture: Capture) -> None:
    found = truth_of(scene, capture)
    assert found["moving_instances"] == [1] and found["world"] == "plane_sphere" and found["units"] == "m"
    assert found["depth"]["all"]["median_relative"] < 0.001 and found["depth"]["missing"] < 0.01
    assert found["depth"]["moving_objects"]["median_relative"] < FOOTPRINT / 3.1
    assert found["flow"]["background"]["median"] < 1e-3 and found["flow"]["moving_objects"]["median"] < 0.15
    tracks = found["tracks"]
    assert tracks["moving_objects"]["median"] < FOOTPRINT and tracks["background"]["median"] < FOOTPRINT / 2
    assert tracks["moving_objects"]["median_relative"] == pytest.approx(tracks["moving_objects"]["median"] / (2 * 0.55))
    assert tracks["all"]["lost"] == 0 and tracks["never_seen"] == 0
    assert tracks["moving_objects"]["count"] + tracks["background"]["count"] == tracks["tracks"] > 50
    assert tracks["static_objects"] is None and tracks["background"]["median_relative"] is None
    assert tracks["instances"]["1"] == tracks["moving_objects"]


def test_tracks_of_a_scene_that_moves_wrongly_have_its_error_at_all_later_times(
    scene: Scene4D, capture: Capture
) -> None:
    shifted = truth_of(later_shift(scene, (0.0, 0.0, 0.3)), capture)["tracks"]
    for part in ("background", "moving_objects"):  # right at the query, frame 0, 0.3 m off at the other four frames
        assert shifted[part]["median"] == pytest.approx(0.3, abs=FOOTPRINT)


def test_flow_of_a_scene_that_moves_wrongly_is_off_by_the_projected_shift(scene: Scene4D, capture: Capture) -> None:
    shift = 0.1
    views = [capture.view("cam02", 0)]
    found = evaluate(later_shift(scene, (0.0, 0.0, shift)), capture, views).truth
    assert found is not None
    depth = trace(make_world("plane_sphere"), capture.cameras(views), 0.0).depth[0]
    focal = float(capture.cameras(views).K[0, 1, 1])
    up = float(capture.cameras(views).world_to_cam[0, 1, 2])  # what a metre up is along the image's rows
    expected = abs(up) * shift * focal * (1.0 / depth).median()  # most pixels show the plane
    assert found["flow"]["background"]["median"] == pytest.approx(float(expected), rel=0.1)
    assert found["flow"]["views"] == 1


def test_depth_of_a_scene_that_lies_too_far_is_off_by_its_share(scene: Scene4D, capture: Capture) -> None:
    view = capture.view("cam02", 0)
    assert view.world_to_cam is not None
    ahead = view.world_to_cam[2, :3].float()
    found = evaluate(later_shift(scene, (0.2 * ahead).tolist()), capture, [capture.view("cam02", 2)]).truth
    assert found is not None
    seen = trace(make_world("plane_sphere"), capture.cameras([capture.view("cam02", 2)]), capture.view("cam02", 2).time)
    for part, id in (("background", 0), ("moving_objects", 1)):
        expected = float((0.2 / seen.depth[seen.ids == id]).median())
        assert found["depth"][part]["median_relative"] == pytest.approx(expected, rel=0.1)


def test_what_is_not_there_is_missing_and_its_tracks_are_lost(scene: Scene4D, capture: Capture) -> None:
    found = truth_of(scene.subset(scene.instances == 1), capture)
    share = np.mean([float((trace(make_world("plane_sphere"), capture.cameras([v]), v.time).ids == 0).float().mean())
                     for v in (capture.view(f"cam0{c}", f) for c in CENTRE for f in (0, 2))])  # fmt: skip
    assert found["depth"]["missing"] == pytest.approx(share, abs=0.03)  # a pixel's rim of the sphere
    assert found["tracks"]["background"]["lost"] > 0.9 and found["tracks"]["moving_objects"]["lost"] < 0.05


def test_tracks_are_queried_where_a_fitted_view_sees_them(scene: Scene4D, capture: Capture) -> None:
    """With frame 2 of cam00 as the only fitted view, the scene is right there and wrong at the other times."""
    world = find_truth(capture)
    assert world is not None
    shown = torch.from_numpy(world.arrays["track_visible"][2, 0])
    rig = scene.rig
    assert rig is not None
    wrong = (rig.knot_times != rig.knot_times[2]).float()[:, None] * torch.tensor([0.0, 0.0, 0.3])
    scene = replace(scene, rig=replace(rig, knot_translations=rig.knot_translations + wrong))
    paths, _ = predict_tracks(scene, capture, {("cam00", 2)}, world, EvaluationOptions())
    errors = (paths - torch.from_numpy(world.arrays["track_xyz"])).norm(dim=-1)[:, shown].median(1).values
    assert errors[2] < FOOTPRINT and errors[0] == pytest.approx(0.3, abs=FOOTPRINT)


def test_path_at_a_pixel_is_that_of_the_gaussian_there(capture: Capture) -> None:
    view = capture.view("cam02", 1)
    assert view.world_to_cam is not None and view.K is not None
    center = torch.linalg.inv(view.world_to_cam)[:3] @ torch.tensor([0.1, 0.0, 2.0, 1.0], dtype=torch.float64)
    velocity = torch.tensor([0.3, -0.2, 0.5])
    base = static_scene(
        Gaussians(
            center.float()[None], torch.ones(1, 4), torch.full((1, 3), -2.0), torch.zeros(1), torch.zeros(1, 1, 3)
        )
    )
    moving = replace(base, residuals=velocity[None, None], t_ref=torch.tensor([view.time]))
    pixel = (view.K @ torch.tensor([0.05, 0.0, 1.0], dtype=torch.float64))[None, :2]
    times = [0.01 * k for k in range(40)]  # more than one pass holds
    paths, alpha = paths_at_pixels(moving, capture, view, pixel, times, "auto")
    expected = center + torch.tensor(times)[:, None] * velocity - view.time * velocity
    torch.testing.assert_close(paths[:, 0], expected, atol=1e-5, rtol=0)
    assert 0.4 < float(alpha) < 0.51  # opacity 0.5


def test_path_beside_a_turning_gaussians_centre_goes_round_it(capture: Capture) -> None:
    """Canonical is a world whose z axis is the camera's; a large Gaussian turns a quarter about it in a second."""
    view = replace(capture.view("cam02", 0), world_to_cam=torch.eye(4, dtype=torch.float64))
    assert view.K is not None
    quarter = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5**0.5, 0.0, 0.0, 0.5**0.5]])
    one = torch.zeros(1, dtype=torch.int32)
    rig = Rig(
        centers=torch.tensor([[0.0, 0.0, 2.0]]),
        parents=one - 1,
        instances=one,
        interpolations=one,
        knot_counts=one + 2,
        knot_times=torch.tensor([0.0, 1.0]),
        knot_quats=quarter,
        knot_translations=torch.zeros(2, 3),
    )
    big = Gaussians(rig.centers, torch.ones(1, 4), torch.full((1, 3), -1.0), torch.ones(1), torch.zeros(1, 1, 3))
    scene = replace(static_scene(big), rig=rig, handle_ids=one[:, None], handle_logits=torch.zeros(1, 1))
    pixel = (view.K @ torch.tensor([0.1, 0.0, 1.0], dtype=torch.float64))[None, :2]  # sees (0.2, 0, 2)
    paths, _ = paths_at_pixels(scene, capture, view, pixel, [0.0, 0.5, 1.0], "auto")
    expected = torch.tensor([[0.2, 0.0, 2.0], [0.2 * 0.5**0.5, 0.2 * 0.5**0.5, 2.0], [0.0, 0.2, 2.0]])
    torch.testing.assert_close(paths[:, 0].float(), expected, atol=1e-5, rtol=0)


def test_bilinear_is_exact_for_linear_maps() -> None:
    y, x = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(9) + 0.5, indexing="ij")
    maps = torch.stack([2 * x - y, 3 * y], -1).double()
    pixels = torch.tensor([[0.5, 0.5], [3.7, 2.2], [8.5, 5.5], [8.9, 5.9]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 1.5], [5.2, 6.6], [11.5, 16.5], [11.5, 16.5]], dtype=torch.float64)
    torch.testing.assert_close(bilinear(maps, pixels), expected)


def test_truth_is_seen_from_the_true_cameras_and_not_from_noisy_ones(capture: Capture) -> None:
    view, world = capture.view("cam02", 0), find_truth(capture)
    assert world is not None and view.world_to_cam is not None and view.K is not None
    exact = true_cameras(capture, replace(view, world_to_cam=torch.eye(4, dtype=torch.float64)), world)
    torch.testing.assert_close(exact.world_to_cam[0], view.world_to_cam)
    torch.testing.assert_close(exact.K[0], view.K)


def test_moving_instances_are_those_whose_pose_or_shape_changes() -> None:
    world = make_world("room")  # 1 crate stands, 2 block moves, 3 blob only changes its shape
    poses = [poses_at(world, t) for t in (0.0, 0.5)]
    arrays = {
        "T_world_obj": torch.stack([p.T_world_obj for p in poses]).numpy(),
        "deformation": torch.stack([p.deformation for p in poses]).numpy(),
    }
    assert WorldTruth(world, arrays).moving == [2, 3]


def test_capture_without_truth_says_so_and_damaged_truth_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    capture = open_capture(copy)
    (copy / "truth.npz").write_bytes((copy / "truth.npz").read_bytes()[:500])
    with pytest.raises(InputError, match="truth.npz: is missing or damaged"):
        find_truth(capture)
    shutil.copy(folder / "truth.npz", copy / "truth.npz")
    (copy / "truth.json").write_text(json.dumps({"world": 3}))
    with pytest.raises(InputError, match="truth"):
        find_truth(capture)
    (copy / "truth.json").unlink()
    assert find_truth(capture) is None
