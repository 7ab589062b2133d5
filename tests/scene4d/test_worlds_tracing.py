"""What cameras see of a world, against closed forms, marching, and its own symmetries."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from renderers import Cameras
from scene4d.worlds import (
    WORLDS,
    Box,
    Capsule,
    Drive,
    Light,
    Rect,
    Sphere,
    Texture,
    World,
    WorldObject,
    arc_rig,
    held_out_frames,
    make_world,
    moving_rig,
    poses_at,
    trace,
    tracing,
)
from scene4d.worlds.library import FACES_MINUS_Y, still
from scene4d.worlds.textures import texture_colors
from scene4d.worlds.tracing import cast_grid, cast_rays, eyes_at
from scene4d.worlds.types import Stage


def one_camera(world: World, width: int = 160, height: int = 120, index: int = 2) -> Cameras:
    cameras = arc_rig(world, width, height).at(0)
    return Cameras(cameras.world_to_cam[index : index + 1], cameras.K[index : index + 1], width, height)


def pixel_centers(width: int, height: int) -> torch.Tensor:
    """[H, W, 2]"""
    u, v = torch.arange(width).double() + 0.5, torch.arange(height).double() + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)


def ray_directions(cameras: Cameras) -> torch.Tensor:
    """[H, W, 3] in the camera, with z = 1."""
    pixels = pixel_centers(cameras.width, cameras.height)
    homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1)
    return homogeneous @ torch.linalg.inv(cameras.K[0]).T


def unprojected(cameras: Cameras, depth: torch.Tensor) -> torch.Tensor:
    """World points [H, W, 3] of a depth map [H, W]."""
    cam = ray_directions(cameras) * depth[..., None].double()
    T_world_cam = torch.linalg.inv(cameras.world_to_cam[0])
    return cam @ T_world_cam[:3, :3].T + T_world_cam[:3, 3]


def test_sphere_covers_the_pixels_inside_its_closed_form_outline_at_its_closed_form_depth() -> None:
    world = make_world("plane_sphere")
    cameras, time = one_camera(world), 0.37
    center = poses_at(world, time).T_world_obj[1, :3, 3]
    c = cameras.world_to_cam[0, :3, :3] @ center + cameras.world_to_cam[0, :3, 3]
    d = ray_directions(cameras)
    # the ray meets the sphere if the angle to its centre is at most asin(r / |c|)
    along = d @ c
    inside = along**2 >= (d**2).sum(-1) * (c @ c - 0.55**2)
    truth = trace(world, cameras, time, samples=1)
    assert torch.equal(truth.ids[0] == 1, inside)
    dd = (d**2).sum(-1)
    expected = (along - (along**2 - dd * (c @ c - 0.55**2)).clamp(min=0).sqrt()) / dd
    torch.testing.assert_close(truth.depth[0][inside].double(), expected[inside], atol=1e-6, rtol=1e-6)  # float32


def signed_inside(obj: WorldObject, rest: torch.Tensor) -> torch.Tensor:
    """Above 0 inside the object; for rectangles, above 0 behind them."""
    shape = obj.shape
    if isinstance(shape, Sphere):
        return 1.0 - (rest / rest.new_tensor(shape.radii)).norm(dim=-1)
    if isinstance(shape, Box):
        return -(rest.abs() - rest.new_tensor(shape.half)).amax(-1)
    if isinstance(shape, Capsule):
        axis = torch.zeros_like(rest)
        axis[..., 2] = rest[..., 2].clamp(-shape.half_length, shape.half_length)
        return shape.radius - (rest - axis).norm(dim=-1)
    within = ((rest[..., :2].abs() - rest.new_tensor(shape.half)) <= 0).all(-1)
    return torch.where(within, -rest[..., 2], -1.0)


@pytest.mark.parametrize("name", list(WORLDS))
def test_depth_is_where_marching_first_enters_an_object(name: str) -> None:
    world, time = make_world(name), 0.4
    cameras = one_camera(world, 80, 60)
    truth = trace(world, cameras, time, samples=1)
    rows = torch.randint(60 * 80, (100,), generator=torch.Generator().manual_seed(5))
    directions = ray_directions(cameras).reshape(-1, 3)[rows]
    T_world_cam = torch.linalg.inv(cameras.world_to_cam[0])
    steps = torch.linspace(0.05, 12.0, 4001).double()
    poses = poses_at(world, time).T_world_rest
    first = torch.full((len(rows),), torch.inf).double()
    for obj, T_world_rest in zip(world.objects, poses, strict=True):
        T_rest_cam = torch.linalg.inv(T_world_rest) @ T_world_cam

        def inside(s: torch.Tensor, obj: WorldObject = obj, T: torch.Tensor = T_rest_cam) -> torch.Tensor:
            return signed_inside(obj, (s[..., None] * directions[:, None]) @ T[:3, :3].T + T[:3, 3])

        values = inside(steps.expand(len(rows), -1))
        entering = (values[:, 1:] > 0) & (values[:, :-1] <= 0)
        k = entering.double().argmax(1)
        low, high = steps[k], steps[k + 1]
        for _ in range(50):
            middle = (low + high) / 2
            behind = inside(middle[:, None])[:, 0] > 0
            low, high = torch.where(behind, low, middle), torch.where(behind, middle, high)
        first = torch.where(entering.any(1), torch.minimum(first, high), first)
    found = truth.depth[0].reshape(-1)[rows].double()
    assert (found <= first + 1e-5).all()  # marching may step over a corner, never see through a surface
    assert ((found - first).abs() < 1e-5).double().mean() >= 0.97  # chords under the step of 3 mm are rare


@pytest.mark.parametrize("name", list(WORLDS))
def test_testing_objects_only_in_their_rectangles_changes_nothing(name: str) -> None:
    world = make_world(name)
    cameras = arc_rig(world, 80, 60).at(0)
    # and a camera among the objects, that has some of them behind it
    inside = cameras.world_to_cam[:1].clone()
    inside[0, 2, 3] -= 0.75 * world.stage.distance
    cameras = Cameras(torch.cat([cameras.world_to_cam, inside]), cameras.K[:1].expand(9, 3, 3), 80, 60)
    us, vs = torch.arange(80).double() + 0.5, torch.arange(60).double() + 0.5
    pixels = pixel_centers(80, 60).reshape(-1, 2)
    for eye in eyes_at(world, cameras, 0.6):
        everywhere = torch.tensor([0.0, 0.0, 80.0, 60.0]).double().expand_as(eye.boxes)
        depth, parts = cast_grid(world, replace(eye, boxes=everywhere), us, vs)
        for found_depth, found_parts in (cast_grid(world, eye, us, vs), cast_rays(world, eye, pixels)):
            torch.testing.assert_close(found_depth.reshape(60, 80), depth, rtol=1e-12, atol=0)
            assert (found_parts.reshape(60, 80) == parts).all()


def test_supersampled_image_is_the_mean_of_a_finer_image(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world("room")
    coarse, fine = one_camera(world, 40, 30), one_camera(world, 120, 90)
    expected = trace(world, fine, 0.3, samples=1).images[0].reshape(30, 3, 40, 3, 3).mean((1, 3))
    torch.testing.assert_close(trace(world, coarse, 0.3, samples=3).images[0], expected, atol=1e-6, rtol=0)
    monkeypatch.setattr(tracing, "BAND_RAYS", 120 * 3 * 7)  # bands of 7 rows: the last one is shorter
    torch.testing.assert_close(trace(world, coarse, 0.3, samples=3).images[0], expected, atol=1e-6, rtol=0)


def lens_shaped() -> World:
    """A flat ellipsoid, stretched and leaning."""
    motion = replace(still(0.0, 0.0, 0.0, (0.9, 0.3, 0.2, 0.1)), stretch=Drive(1.5), lean=Drive(0.4))
    lens = WorldObject("lens", 1, Sphere((0.7, 0.4, 0.2)), motion=motion)
    wall = WorldObject("wall", 0, Rect((5.0, 5.0)), motion=still(0.0, 1.0, 0.0, FACES_MINUS_Y))
    return World("lens", (wall, lens), Stage((0.0, 0.0, 0.0), 2.0))


@pytest.mark.parametrize("name", ["room", "arm", "lens"])
def test_normals_are_at_right_angles_to_the_surface_and_face_the_camera(name: str) -> None:
    world = lens_shaped() if name == "lens" else make_world(name)
    cameras = one_camera(world, 320, 240)
    truth = trace(world, cameras, 0.45, samples=1)
    points = unprojected(cameras, truth.depth[0])
    normals, parts = truth.normals[0].double(), truth.parts[0]
    center = cameras.centers[0]
    assert (((center - points) * normals).sum(-1) > 0).all()
    step = points[:, 1:] - points[:, :-1]
    same = parts[:, 1:] == parts[:, :-1]
    # symmetric difference: the chord of a smooth surface is at right angles to the mean of its end normals
    mean = normals[:, 1:] + normals[:, :-1]
    slant = ((step * mean).sum(-1) / (step.norm(dim=-1) * mean.norm(dim=-1))).abs()[same]
    assert slant.median() < 1e-5 and slant.quantile(0.9) < 1e-3


def test_light_scales_colours_by_lambert() -> None:
    light = Light((1.0, -2.0, 2.0), ambient=0.25)
    world = make_world("plane_sphere")
    cameras = one_camera(world, 80, 60)
    plain, lit = (trace(w, cameras, 0.5, samples=1) for w in (world, replace(world, light=light)))
    points = unprojected(cameras, plain.depth[0])
    center = poses_at(world, 0.5).T_world_obj[1, :3, 3]
    sphere = plain.ids[0] == 1
    normals = torch.where(sphere[..., None], (points - center) / 0.55, torch.tensor([0.0, -1.0, 0.0]).double())
    shade = 0.25 + 0.75 * (normals @ (torch.tensor([1.0, -2.0, 2.0]).double() / 3.0)).clamp(min=0)
    torch.testing.assert_close(lit.images[0], plain.images[0] * shade[..., None].float(), atol=1e-5, rtol=0)
    assert sphere.any() and shade[sphere].min() == 0.25  # part of the sphere is turned away


def test_room_is_closed() -> None:
    world = make_world("room")
    random = torch.Generator().manual_seed(2)
    for _ in range(20):
        turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=random).double())
        center = (torch.rand(3, generator=random).double() - 0.5) * torch.tensor([5.0, 4.4, 2.4]) + torch.tensor(
            [0, 0, 1.4]
        )
        pose = torch.eye(4).double()
        pose[:3, :3] = turn * turn.det()
        pose[:3, 3] = -pose[:3, :3] @ center
        K = torch.tensor([[20.0, 0, 20], [0, 20, 15], [0, 0, 1]]).double()
        assert (trace(world, Cameras(pose[None], K[None], 40, 30), 0.2, samples=1).parts >= 0).all()


def test_nothing_is_seen_as_background_with_depth_and_id_zero_and_part_minus_one() -> None:
    ball = WorldObject("ball", 4, Sphere((0.2, 0.2, 0.2)), Texture(noise=0.0), still(0.0, 0.0, 0.0))
    wall = WorldObject("wall", 0, Rect((1.0, 1.0)), motion=still(0.0, 0.0, 5.0))  # seen from +z only: not from here
    world = World("two", (ball, wall), Stage((0.0, 0.0, 0.0), 2.0), background=(0.1, 0.2, 0.3))
    cameras = one_camera(world, 40, 30)
    truth = trace(world, cameras, 0.0, samples=1)
    nothing = truth.parts[0] < 0
    assert nothing.any() and (truth.ids[0][~nothing] == 4).all()
    assert (truth.depth[0][nothing] == 0).all() and (truth.ids[0][nothing] == 0).all()
    torch.testing.assert_close(truth.images[0][nothing], torch.tensor([0.1, 0.2, 0.3]).expand(int(nothing.sum()), 3))


@pytest.mark.parametrize("name", list(WORLDS))
def test_worlds_are_textured_smooth_and_fill_the_view(name: str) -> None:
    world = make_world(name)
    cameras = arc_rig(world).at(0)
    for time in (0.0, 0.5, 1.0):
        truth = trace(world, cameras, time)
        assert (truth.depth > 0).all() and (truth.images > 0).all() and (truth.images < 1).all()
        assert set(truth.ids.unique().tolist()) <= {0, *world.instances}
        for c in range(len(cameras)):
            inner = (truth.parts[c, :, 2:] == truth.parts[c, :, :-2])[..., None].expand(-1, -1, 3)
            bend = truth.images[c, :, 2:] - 2 * truth.images[c, :, 1:-1] + truth.images[c, :, :-2]
            # second difference of a wave of amplitude 0.2 and 10 pixels: 0.2 (2 pi / 10)^2 = 0.08
            assert bend[inner].abs().median() < 0.03
            assert truth.images[c].std() > 0.06


def test_noise_of_a_texture_has_its_deviation_and_nothing_below_its_wavelength() -> None:
    values = []
    for seed in range(8):
        texture = Texture(
            (0.5, 0.5, 0.5), noise=0.02, wavelength=0.25, seed=seed
        )  # small: the gamut's curve is straight
        line = torch.zeros(4096, 3)
        line[:, seed % 3] = torch.linspace(0, 64 * 0.25, 4096)
        values.append(texture_colors(texture, line) - 0.5)
    noise = torch.stack(values)
    assert noise.std().item() == pytest.approx(0.02, rel=0.2)
    power = torch.fft.rfft(noise * torch.hann_window(4096)[:, None], dim=1).abs() ** 2
    assert power[:, 64 + 3 :].sum() < 1e-4 * power.sum()  # 64 waves in the line; the window widens a peak by 2
    assert power[:, 32:67].sum() > 0.1 * power.sum()  # and it is not all coarse


def test_the_rigid_deforming_and_still_objects_of_the_room_are_what_they_are_called() -> None:
    world = make_world("room")
    first, second = poses_at(world, 0.1), poses_at(world, 0.8)
    index = {o.name: i for i, o in enumerate(world.objects)}
    crate, block, blob = index["crate"], index["block"], index["blob"]
    assert torch.equal(first.T_world_rest[crate], second.T_world_rest[crate])
    relative = second.T_world_rest[block, :3, :3] @ torch.linalg.inv(first.T_world_rest[block, :3, :3])
    torch.testing.assert_close(relative @ relative.T, torch.eye(3).double(), atol=1e-12, rtol=0)
    assert torch.linalg.matrix_norm(relative - torch.eye(3).double()) > 0.5
    for poses in (first, second):
        assert poses.deformation[blob].det().item() == pytest.approx(1.0)  # constant volume
    singular = torch.linalg.svdvals(second.deformation[blob] @ torch.linalg.inv(first.deformation[blob]))
    assert singular.max() > 1.15


def test_cameras_look_at_the_target_upright_and_held_out_ones_stand_between_their_neighbours() -> None:
    world = make_world("arm")
    rig = arc_rig(world)
    cameras = rig.at(0)
    target = torch.tensor([*world.stage.target, 1.0], dtype=torch.float64)
    for pose in cameras.world_to_cam:
        x, y, z, _ = pose @ target
        assert (abs(x), abs(y), z) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9), pytest.approx(2.6))
        assert (pose @ torch.tensor([0.0, 0.0, 1.0, 0.0]).double())[1] < -0.9  # up in the world is -y in the camera
        torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].T, torch.eye(3).double(), atol=1e-12, rtol=0)
        assert pose[:3, :3].det() > 0
    centers = cameras.centers
    assert rig.test_cameras == ("cam06", "cam07")
    for held_out, (a, b) in ((6, (1, 2)), (7, (3, 4))):
        gaps = (centers[held_out] - centers[a]).norm(), (centers[held_out] - centers[b]).norm()
        assert gaps[0].item() == pytest.approx(gaps[1].item())
        assert gaps[0] < 0.51 * (centers[a] - centers[b]).norm()
    assert held_out_frames(12) == [3, 7, 11]


def test_moving_camera_has_another_pose_each_frame() -> None:
    rig = moving_rig(make_world("room"), 5)
    centers = torch.stack([rig.at(k).centers[0] for k in range(5)])
    assert (np.linalg.norm(np.diff(centers.numpy(), axis=0), axis=1) > 0.2).all()


def test_wrong_input_is_refused() -> None:
    world = make_world("plane_sphere")
    with pytest.raises(ValueError, match="name must be one of plane_sphere"):
        make_world("sphere")
    with pytest.raises(ValueError, match="samples must be at least 1"):
        trace(world, one_camera(world), 0.0, samples=0)
    with pytest.raises(ValueError, match="names of objects must be unique, got 'plane'"):
        replace(world, objects=world.objects[:1] * 2)
    with pytest.raises(ValueError, match="parent of 'sphere' must be an earlier object"):
        replace(world, objects=(replace(world.objects[1], parent="plane"),))
