"""Channels of a scene: planes of Gaussians whose depth, flow, normals and ids are known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from renderers import Cameras, Gaussians
from renderers.quaternions import exp_quat, multiply
from scene4d.channels import CHANNELS, render_channels, unproject
from scene4d.rig import LINEAR, Rig
from scene4d.scene import Scene4D, static_scene
from scene4d.scene_tools import concat
from scene4d.worlds import Truth, World, arc_rig, flow, make_world, poses_at, trace

WIDTH, HEIGHT, FOCAL = 48, 36, 60.0


def camera(shift: tuple[float, float, float] = (0.0, 0.0, 0.0), turn: float = 0.0) -> Cameras:
    """Turned about y, at `shift` in the world's camera-like axes."""
    c, s = math.cos(turn), math.sin(turn)
    R_cam_world = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]], dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = R_cam_world
    pose[:3, 3] = -R_cam_world @ torch.tensor(shift, dtype=torch.float64)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2 + 1.5], [0, FOCAL * 1.1, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(pose[None], K[None], WIDTH, HEIGHT)


def plane(
    size: float = 2.5, step: float = 0.07, z: float = 3.0, tilt: Tensor | None = None, width: float = 1.0
) -> Scene4D:
    """Flat Gaussians, `width` steps wide, on the plane z = const turned by the half rotation vector `tilt` about
    (0, 0, z), with float64 tensors for the torch backend."""
    axis = torch.arange(-size, size + step / 2, step, dtype=torch.float64)
    flat = torch.stack([*torch.meshgrid(axis, axis, indexing="xy"), torch.zeros(len(axis), len(axis))], -1).reshape(
        -1, 3
    )
    q = exp_quat(torch.zeros(3).double() if tilt is None else tilt)
    quats = q.expand(len(flat), 4)
    means = _rotate(q, flat) + torch.tensor([0.0, 0.0, z])
    scales = torch.tensor([width * step, width * step, 1e-3 * step]).double().log()
    n = len(flat)
    return Scene4D(
        means=means,
        quats=quats.clone(),
        log_scales=scales.expand(n, 3).clone(),
        logit_opacities=torch.full((n,), 3.0).double(),
        sh=torch.zeros(n, 1, 3).double(),
        labels=torch.full((n,), 7, dtype=torch.int32),
        instances=torch.ones(n, dtype=torch.int32),
    )


def _rotate(q: Tensor, points: Tensor) -> Tensor:
    w, v = q[0], q[1:]
    R = torch.eye(3).double() + 2 * w * _cross(v) + 2 * _cross(v) @ _cross(v)
    return points @ R.T


def _cross(v: Tensor) -> Tensor:
    x, y, z = v.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)


def moving(scene: Scene4D, half_turn: list[float], shift: list[float], center: list[float]) -> Scene4D:
    """`scene` carried by one handle: at rest at 0 s, turned about `center` and shifted at 1 s."""
    n = len(scene)
    rig = Rig(
        centers=torch.tensor([center]).double(),
        parents=torch.tensor([-1], dtype=torch.int32),
        instances=torch.tensor([1], dtype=torch.int32),
        interpolations=torch.tensor([LINEAR], dtype=torch.int32),
        knot_counts=torch.tensor([2], dtype=torch.int32),
        knot_times=torch.tensor([0.0, 1.0]).double(),
        knot_quats=torch.stack([exp_quat(torch.zeros(3).double()), exp_quat(torch.tensor(half_turn).double())]),
        knot_translations=torch.tensor([[0.0, 0, 0], shift]).double(),
    )
    slots = torch.zeros(n, 1, dtype=torch.int32)
    return replace(scene, rig=rig, handle_ids=slots, handle_logits=torch.zeros(n, 1).double())


def pixel_centers() -> Tensor:
    u, v = torch.arange(WIDTH).double() + 0.5, torch.arange(HEIGHT).double() + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)  # [H, W, 2]


def plane_points(cameras: Cameras, point: Tensor, normal: Tensor) -> Tensor:
    """Where the rays of the pixels meet a plane, [H, W, 3], one ray at a time."""
    R, shift, K = cameras.world_to_cam[0, :3, :3], cameras.world_to_cam[0, :3, 3], cameras.K[0]
    eye = -R.T @ shift
    points = torch.zeros(HEIGHT, WIDTH, 3).double()
    for i in range(HEIGHT):
        for j in range(WIDTH):
            ray = R.T @ torch.linalg.solve(K, torch.tensor([j + 0.5, i + 0.5, 1.0]).double())
            points[i, j] = eye + ray * ((point - eye) @ normal) / (ray @ normal)
    return points


def project(cameras: Cameras, points: Tensor) -> Tensor:
    seen = (points @ cameras.world_to_cam[0, :3, :3].T + cameras.world_to_cam[0, :3, 3]) @ cameras.K[0].T
    return seen[..., :2] / seen[..., 2:]


def test_flow_of_a_plane_that_turns_and_shifts_is_exact_for_gaussians_of_any_size() -> None:
    half, shift, center = [0.04, -0.03, 0.1], [0.1, -0.05, 0.06], [0.3, 0.0, 3.0]
    # as large as seven pixels: displacements of centres would be wrong by a share of that
    scene = moving(plane(size=3.5, step=0.35), half, shift, center)
    here, there = camera(), camera((0.1, 0.02, -0.2), turn=0.05)
    maps = render_channels(scene, here, 0.0, ("flow",), t_next=1.0, next_cameras=there, backend="torch")
    points = plane_points(here, torch.tensor([0.0, 0, 3]).double(), torch.tensor([0.0, 0, 1]).double())
    c = torch.tensor(center).double()
    moved = _rotate(exp_quat(torch.tensor(half).double()), points - c) + c + torch.tensor(shift).double()
    expected = project(there, moved) - pixel_centers()
    assert expected.norm(dim=-1).max() > 5
    torch.testing.assert_close(maps["flow"][0], expected, rtol=0, atol=1e-9)


def test_points_of_the_depth_map_move_as_their_tilted_rigid_surface_does() -> None:
    half, shift, center = [0.05, 0.08, -0.1], [0.0, 0.1, 0.1], [0.0, 0.2, 3.0]
    scene = moving(plane(size=3.5, step=0.2, tilt=torch.tensor([0.2, -0.15, 0.3]).double()), half, shift, center)
    maps = render_channels(scene, camera(), 0.0, ("flow", "depth"), t_next=1.0, backend="torch")
    c = torch.tensor(center).double()
    points = unproject(maps["depth"], camera())[0]
    moved = _rotate(exp_quat(torch.tensor(half).double()), points - c) + c + torch.tensor(shift).double()
    torch.testing.assert_close(maps["flow"][0], project(camera(), moved) - pixel_centers(), rtol=0, atol=1e-7)


def test_flow_of_half_a_motion_is_that_between_its_times() -> None:
    scene = moving(plane(), [0.0, 0.0, 0.0], [0.4, 0.2, 0.0], [0.0, 0.0, 0.0])
    maps = render_channels(scene, camera(), 0.25, ("flow",), t_next=0.5, backend="torch")
    expected = torch.tensor([0.1 / 3 * FOCAL, 0.05 / 3 * FOCAL * 1.1], dtype=torch.float64)  # K dx / z
    torch.testing.assert_close(maps["flow"][0], expected.expand(HEIGHT, WIDTH, 2), rtol=0, atol=1e-7)


def test_nothing_has_no_flow_depth_normal_or_id() -> None:
    scene = plane().subset(torch.tensor([0]))  # one Gaussian far outside the image
    maps = render_channels(scene, camera(), 0.0, CHANNELS, t_next=1.0, backend="torch")
    for name in ("rgb", "depth", "alpha", "flow", "normal"):
        assert (maps[name] == 0).all(), name
    assert (maps["label"] == -1).all() and (maps["id"] == -1).all()
    assert maps["label"].dtype == maps["id"].dtype == torch.int32


def test_surface_that_goes_behind_the_camera_has_no_flow() -> None:
    scene = moving(plane(), [0.0, 0.0, 0.0], [0.0, 0.0, -4.0], [0.0, 0.0, 0.0])
    maps = render_channels(scene, camera(), 0.0, ("flow", "alpha"), t_next=1.0, backend="torch")
    assert (maps["alpha"] > 0.9).all() and (maps["flow"] == 0).all()


@pytest.mark.parametrize("turned", [False, True])
def test_depth_and_normal_of_a_tilted_plane_are_those_of_the_plane(turned: bool) -> None:
    tilt = torch.tensor([0.15, -0.1, 0.05]).double()
    scene = plane(size=4.0, step=0.06, tilt=tilt, width=0.6)
    if turned:  # half a turn about their own x: the same Gaussians, their shortest axes the other way round
        scene = replace(
            scene, quats=multiply(scene.quats, torch.tensor([[0.0, 1.0, 0.0, 0.0]]).double().expand_as(scene.quats))
        )
    normal = _rotate(exp_quat(tilt), torch.tensor([[0.0, 0, -1]]).double())[0]
    maps = render_channels(scene, camera(), 0.0, ("depth", "normal"), backend="torch")
    points = plane_points(camera(), torch.tensor([0.0, 0, 3]).double(), normal)
    # 1 %: the nearer Gaussians of a pixel hide the farther ones
    torch.testing.assert_close(maps["depth"][0], points[..., 2], rtol=0.01, atol=0)
    torch.testing.assert_close(maps["normal"][0], normal.expand(HEIGHT, WIDTH, 3), rtol=0, atol=1e-9)


def test_unprojected_points_project_to_the_pixel_centres_at_their_depth() -> None:
    here = camera((0.3, -0.2, 0.5), turn=0.4)
    depth = 1 + torch.rand(1, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).double()
    points = unproject(depth, here)[0]
    torch.testing.assert_close(project(here, points), pixel_centers(), rtol=0, atol=1e-9)
    z = (points @ here.world_to_cam[0, :3, :3].T + here.world_to_cam[0, :3, 3])[..., 2]
    torch.testing.assert_close(z, depth[0])


def strips(count: int, alpha: float = 0.95) -> Scene4D:
    """Columns of Gaussians before a plane; column k has label 3 k and instance k + 1."""
    base = plane(step=0.1)
    column = ((base.means[:, 0] + 2.5) / 5.001 * count).long()
    logit = math.log(alpha / (1 - alpha))
    return replace(
        base,
        labels=(3 * column).int(),
        instances=(column + 1).int(),
        log_scales=base.log_scales - 0.7,
        logit_opacities=torch.full_like(base.logit_opacities, logit),
    )


@pytest.mark.parametrize("count", [3, 50])
def test_label_and_id_are_those_of_the_gaussians_with_the_largest_summed_weight(count: int) -> None:
    scene = strips(count)
    maps = render_channels(scene, camera(), 0.0, ("label", "id", "alpha"), backend="torch")
    labels, ids, alpha = maps["label"][0], maps["id"][0], maps["alpha"][0]
    best, weight = torch.full_like(ids, -1), torch.full_like(alpha, -1)
    for value in range(1, count + 1):  # each instance's weight is its blended indicator, rendered alone as colour
        colour = (scene.instances == value).double()
        sh = ((colour - 0.5) / 0.28209479177387814)[:, None, None].expand(-1, 1, 3)  # 0.282 = Y_00
        shown = render_channels(replace(scene, sh=sh), camera(), 0.0, ("rgb",), backend="torch")["rgb"][0, ..., 0]
        best, weight = torch.where(shown > weight, value, best), torch.maximum(shown, weight)
    covered = alpha >= 0.5
    assert covered.any() and len(best[covered].unique()) > min(count, 8) - 1
    assert (ids[covered] == best[covered]).all() and (labels[covered] == 3 * (best[covered] - 1)).all()


def test_pixels_less_than_half_covered_have_no_label() -> None:
    maps = render_channels(strips(3, alpha=0.1), camera(), 0.0, ("label", "id", "alpha"), backend="torch")
    covered = maps["alpha"] >= 0.5
    assert covered.logical_not().any()
    assert torch.equal(maps["label"] == -1, ~covered) and torch.equal(maps["id"] == -1, ~covered)


def test_two_cameras_see_what_each_sees_alone() -> None:
    scene = moving(
        replace(strips(20), instances=torch.ones(2601, dtype=torch.int32)),
        [0.0, 0.05, 0.1],
        [0.2, 0.0, 0.1],
        [0.0, 0.0, 3.0],
    )
    pair = [camera(), camera((0.4, 0.1, 0.0), 0.1)]
    both = Cameras(*(torch.cat([getattr(c, n) for c in pair]) for n in ("world_to_cam", "K")), WIDTH, HEIGHT)
    together = render_channels(scene, both, 0.3, CHANNELS, t_next=0.6, backend="torch")
    for c, single in enumerate(pair):
        alone = render_channels(scene, single, 0.3, CHANNELS, t_next=0.6, backend="torch")
        for name in CHANNELS:
            torch.testing.assert_close(together[name][c], alone[name][0])


def test_background_shows_where_nothing_is_and_only_the_asked_channels_come_back() -> None:
    scene = plane().subset(torch.tensor([0]))
    maps = render_channels(scene, camera(), 0.0, ["rgb"], background=torch.tensor([0.1, 0.5, 0.9]), backend="torch")
    assert list(maps) == ["rgb"]
    torch.testing.assert_close(maps["rgb"][0, 3, 4], torch.tensor([0.1, 0.5, 0.9]).double(), atol=1e-7, rtol=0)


def test_flow_and_normals_of_splats_on_a_traced_world_agree_with_the_trace() -> None:
    world = make_world("plane_sphere")
    rig = arc_rig(world, 80, 60)
    view = Cameras(rig.at(0).world_to_cam[:1], rig.at(0).K[:1], 80, 60)
    truth, exact = trace(world, view, 0.0), flow(world, view, 0.0, view, 0.1)
    scene = splats_of(world, view, truth, 0.1)
    maps = render_channels(scene, view, 0.0, ("flow", "normal", "depth", "id"), t_next=0.1)
    flat = inside(truth.parts[0])
    error = (maps["flow"] - exact.flow).norm(dim=-1)[0][flat]
    assert exact.flow.norm(dim=-1).max() > 2
    assert error.median() < 0.02 and error.quantile(0.98) < 0.15  # pixels
    cosine = (maps["normal"] * truth.normals).sum(-1)[0][flat]
    assert cosine.median() > 0.999 and cosine.quantile(0.02) > 0.97
    assert (maps["id"][0] == truth.ids[0])[flat].all()


def inside(parts: Tensor) -> Tensor:
    """bool [H, W]: all pixels within two show the same object."""
    x = parts[None, None].double()
    high = torch.nn.functional.max_pool2d(x, 5, 1, 2)
    low = -torch.nn.functional.max_pool2d(-x, 5, 1, 2)
    found = (high == low)[0, 0]
    found[:3], found[-3:], found[:, :3], found[:, -3:] = False, False, False, False
    return found


def splats_of(world: World, view: Cameras, truth: Truth, seconds: float) -> Scene4D:
    """A Gaussian for each pixel of the trace, on its surface, carried by its object from 0 to `seconds`."""
    points = unproject(truth.depth.double(), view)[0].reshape(-1, 3)
    normals = truth.normals[0].reshape(-1, 3).double()
    before, after = poses_at(world, 0.0), poses_at(world, seconds)
    parts = []
    for k in truth.parts.unique().tolist():
        if k < 0:
            continue
        own = truth.parts[0].reshape(-1) == k
        n = int(own.sum())
        z = torch.tensor([0.0, 0, 1]).double()
        half = torch.cat([1 + normals[own] @ z[:, None], torch.linalg.cross(z.expand(n, 3), normals[own])], 1)
        size = (truth.depth[0].reshape(-1)[own] / view.K[0, 0, 0] * 0.7).double()
        scales = torch.stack([size, size, 0.02 * size], 1).log()
        g = Gaussians(points[own], half, scales, torch.full((n,), 3.0).double(), sh=torch.zeros(n, 1, 3).double())
        piece = static_scene(g)
        T = torch.as_tensor(after.T_world_rest[k] @ torch.linalg.inv(before.T_world_rest[k])).double()
        q = _quat(T[:3, :3])
        piece = replace(piece, instances=torch.full((n,), world.objects[k].instance, dtype=torch.int32))
        rig = Rig(
            centers=torch.zeros(1, 3).double(),
            parents=torch.tensor([-1], dtype=torch.int32),
            instances=piece.instances[:1],
            interpolations=torch.tensor([LINEAR], dtype=torch.int32),
            knot_counts=torch.tensor([2], dtype=torch.int32),
            knot_times=torch.tensor([0.0, seconds]).double(),
            knot_quats=torch.stack([_quat(torch.eye(3).double()), q]),
            knot_translations=torch.stack([torch.zeros(3).double(), T[:3, 3]]),
        )
        slots = torch.zeros(n, 1, dtype=torch.int32)
        parts.append(replace(piece, rig=rig, handle_ids=slots, handle_logits=torch.zeros(n, 1).double()))
    return concat(parts, keep_instances=True).to(dtype=torch.float32)


def _quat(R: Tensor) -> Tensor:
    w = (1 + R.trace()).clamp_min(1e-12).sqrt() / 2
    return torch.stack([w, (R[2, 1] - R[1, 2]) / 4 / w, (R[0, 2] - R[2, 0]) / 4 / w, (R[1, 0] - R[0, 1]) / 4 / w])


def test_wrong_requests_are_named() -> None:
    scene, here = plane(), camera()
    with pytest.raises(ValueError, match="channels must be some of rgb"):
        render_channels(scene, here, 0.0, ("rgb", "heat"))
    with pytest.raises(ValueError, match="channels must be some of"):
        render_channels(scene, here, 0.0, "rgb")
    with pytest.raises(ValueError, match="t_next must be given"):
        render_channels(scene, here, 0.0, ("flow",))
    three = Cameras(here.world_to_cam.repeat(3, 1, 1), here.K.repeat(3, 1, 1), WIDTH, HEIGHT)
    two = Cameras(here.world_to_cam.repeat(2, 1, 1), here.K.repeat(2, 1, 1), WIDTH, HEIGHT)
    with pytest.raises(ValueError, match="next_cameras must be 1 or as many"):
        render_channels(scene, three, 0.0, ("flow",), t_next=1.0, next_cameras=two, backend="torch")
