"""One moving camera: where masked things stand, floaters, and depth maps from elsewhere. The scene is known exactly."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.captures import Capture, View
from scene4d.captures.capture import Points
from scene4d.captures.frames import CameraTrack
from scene4d.errors import InputError
from scene4d.fitting.clouds import moving_cloud, static_cloud
from scene4d.fitting.depth_maps import add_depth_maps, folder_reader
from scene4d.fitting.footage import Footage
from scene4d.fitting.hull import project
from scene4d.fitting.monocular import (
    add_flow_masks,
    anchored,
    contact_depths,
    depth_curve,
    depth_curves,
    instances_of_points,
    is_monocular,
    looked_through,
    lower_border,
    masked_depth,
    nearest_depth,
    shield,
)
from scene4d.fitting.tracking import PointTracks, unproject

WIDTH, HEIGHT, FOCAL, FRAMES = 96, 72, 90.0, 8
GROUND, WALL = 1.5, 12.0  # the plane y = 1.5 m (y points down) and the plane z = 12 m
STANDS = [5.0 + 0.2 * k for k in range(FRAMES)]  # z of the thing at each frame


@dataclass(frozen=True)
class Stage:
    footage: Footage
    points: Tensor  # [P, 3]
    depth: list[Tensor]  # [H, W] of what stands still, by frame


def view_at(k: int) -> View:
    """The camera walks to the right and a little forwards, level, looking along z."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 3] = -torch.tensor([0.15 * k - 0.5, 0.0, 0.1 * k])
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return View("cam", k, k / 10, pose, K, WIDTH, HEIGHT, k)


def depth_of(view: View) -> Tensor:
    """Depth of ground and wall, in closed form."""
    assert view.world_to_cam is not None
    forward = -float(view.world_to_cam[2, 3])
    down = (torch.arange(HEIGHT) + 0.5 - HEIGHT / 2) / FOCAL  # y of the ray at depth 1; the camera is at y = 0
    ground = torch.where(down > 0, GROUND / down.clamp_min(1e-6), torch.inf)
    return ground.clamp_max(WALL - forward)[:, None].expand(HEIGHT, WIDTH).contiguous()


def mask_of(view: View, z: float) -> Tensor:
    """A board 1 m wide and 1.2 m high that stands on the ground at z."""
    corners = torch.tensor([[-0.4, GROUND - 1.2, z], [0.6, GROUND, z]])
    uv, _ = project(camera_of(view), corners)
    x, y = torch.arange(WIDTH) + 0.5, torch.arange(HEIGHT)[:, None] + 0.5
    return (x > uv[0, 0]) & (x < uv[1, 0]) & (y > uv[0, 1]) & (y < uv[1, 1])


def camera_of(view: View) -> Cameras:
    return Capture(Path("x"), "ours", (view,), {}).cameras([view])


@pytest.fixture
def stage() -> Stage:
    views = tuple(view_at(k) for k in range(FRAMES))
    x, z = torch.meshgrid(torch.arange(-6, 8, 0.25), torch.arange(1.5, WALL, 0.25), indexing="ij")
    ground = torch.stack([x.flatten(), torch.full((x.numel(),), GROUND), z.flatten()], 1)
    x, y = torch.meshgrid(torch.arange(-8, 9, 0.4), torch.arange(-6, GROUND, 0.4), indexing="ij")
    points = torch.cat([ground, torch.stack([x.flatten(), y.flatten(), torch.full((x.numel(),), WALL)], 1)])
    capture = Capture(Path("stage"), "ours", views, {"cam": CameraTrack("cam", {}, ())}, 10.0, Points(points))
    footage = Footage(capture, views)
    for view, z in zip(views, STANDS, strict=True):
        footage.motion_masks[view.key] = mask_of(view, z)
    return Stage(footage, points, [depth_of(v) for v in views])


def true_depths(stage: Stage) -> Tensor:
    """z of the thing in each frame's camera."""
    return torch.tensor(STANDS) - torch.tensor([0.1 * k for k in range(FRAMES)])


def test_one_moving_camera_without_depth_is_told_from_other_captures(stage: Stage) -> None:
    assert is_monocular(stage.footage)
    stage.footage.depth_maps[("cam", 0)] = stage.depth[0]
    assert not is_monocular(stage.footage)
    still = view_at(0)
    capture = Capture(Path("x"), "ours", (still,), {"cam": CameraTrack("cam", {}, ())})
    assert not is_monocular(Footage(capture, (still,)))


def test_lower_border_is_just_below_the_lowest_pixels() -> None:
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[4:10, 3:6] = True  # a leg that ends high
    mask[4:15, 8:10] = True  # a leg that stands
    assert torch.equal(lower_border(mask), torch.tensor([[8.5, 15.5], [9.5, 15.5]]))
    mask[:, 8] = True
    assert lower_border(mask).shape == (0, 2)  # it goes on below the picture


def test_contact_is_the_depth_at_which_a_thing_stands(stage: Stage) -> None:
    contact, behind, size = contact_depths(stage.footage, stage.points, 1)
    truth = true_depths(stage)
    # one row of pixels at the feet spans z^2 / (focal * height of the camera) = 0.2 m, 4 %
    torch.testing.assert_close(contact, truth, rtol=0.06, atol=0.0)
    assert bool((behind > contact * 0.999).all())
    torch.testing.assert_close(size, FOCAL * 1.2**0.5 / truth, rtol=0.06, atol=0.0)


def test_what_hangs_before_a_wall_is_in_front_of_it(stage: Stage) -> None:
    for view in stage.footage.views:
        mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
        mask[5:25, 40:60] = True
        stage.footage.motion_masks[view.key] = mask
    curve = depth_curves(stage.footage, stage.points)[1]
    wall = torch.tensor([WALL - 0.1 * k for k in range(FRAMES)])
    extent = wall * 20 / FOCAL
    assert bool((curve < wall - 0.2 * extent).all())
    assert bool((curve > wall - extent).all())


def test_apparent_size_outvotes_flights_and_hidden_feet() -> None:
    truth = torch.linspace(4, 8, 30)
    contact, size = truth.clone(), 100 / truth
    contact[5:12] *= 2  # it jumps: below it is ground that is farther away
    contact[20:24] *= 0.3  # its feet are hidden by what is nearer
    contact[15] = torch.nan
    curve = depth_curve(contact, torch.full((30,), torch.nan), size)
    assert curve is not None
    torch.testing.assert_close(curve, truth, rtol=0.03, atol=0.0)


def test_a_thing_whose_feet_are_never_seen_is_as_deep_as_leaves_it_room() -> None:
    unknown = torch.full((9,), torch.nan)
    assert depth_curve(unknown, unknown, unknown) is None
    curve = depth_curve(unknown, torch.full((9,), 3.0), unknown)
    assert curve is not None
    torch.testing.assert_close(curve, torch.full((9,), 3.0))


def test_points_that_lie_on_a_mask_in_all_views_belong_to_a_thing_that_stands_still(stage: Stage) -> None:
    own = torch.stack(torch.meshgrid(torch.linspace(-0.3, 0.5, 5), torch.linspace(0.4, 1.4, 5), indexing="ij"), -1)
    own = torch.cat([own.reshape(-1, 2), torch.full((25, 1), 5.0)], 1)
    points = torch.cat([stage.points, own])
    assert int((instances_of_points(stage.footage, stage.points) > 0).sum()) == 0
    for view in stage.footage.views:
        stage.footage.motion_masks[view.key] = mask_of(view, 5.0)
    owner = instances_of_points(stage.footage, points)
    assert int((owner[-25:] == 1).sum()) >= 20
    assert int((owner[:-25] > 0).sum()) < 5  # of 110 that it hides in all views
    assert not depth_curves(stage.footage, points)
    depth = masked_depth(stage.footage, stage.footage.views[0], points)
    assert depth is not None
    mask = mask_of(stage.footage.views[0], 5.0)
    assert float(depth[mask].median()) == pytest.approx(5.0, rel=1e-3)
    assert float((depth[mask] / 5.0 - 1).abs().max()) < 0.1  # where one of the hidden points is among the nearest
    assert float(depth[~mask].max()) == 0.0


def test_masked_depth_is_a_shield_at_contact_depth(stage: Stage) -> None:
    view = stage.footage.views[3]
    depth = masked_depth(stage.footage, view, stage.points)
    assert depth is not None
    mask = mask_of(view, STANDS[3])
    assert torch.equal(depth > 0, mask)
    z = float(true_depths(stage)[3])
    assert 0.85 * z < float(depth[mask].min()) < float(depth[mask].max()) < 1.06 * z


def test_a_shield_is_half_of_a_ball_deep_and_highest_in_the_middle() -> None:
    y, x = torch.meshgrid(torch.arange(81) - 40, torch.arange(81) - 40, indexing="ij")
    disc = x**2 + y**2 < 30.5**2
    depth = shield(disc, 10.0, 200.0)
    height = (900 - x.square() - y.square()).clamp_min(0).sqrt()  # pixels, of a ball of 30 pixels
    torch.testing.assert_close(depth[disc], (10 * (1 - 0.5 * height / 200))[disc], rtol=0.02, atol=0.0)


def test_tracks_go_along_their_rays_to_the_depth_of_contact(stage: Stage) -> None:
    footage, origin = stage.footage, 3
    pixels = torch.rand(40, 2, generator=torch.Generator().manual_seed(1)) * 20 + 30
    wrong = [1.0 + 0.2 * (k - origin) for k in range(FRAMES)]  # depth drifts, flow does not notice
    truth = true_depths(stage)
    xyz = torch.stack(
        [
            unproject(camera_of(v), pixels + k, torch.full((40,), float(truth[k]) * wrong[k]))
            for k, v in enumerate(footage.views)
        ]
    )
    tracks = PointTracks(tuple(range(FRAMES)), xyz, torch.ones(FRAMES, 40), torch.ones(40, dtype=torch.int32), origin)
    held = anchored(footage, tracks)
    torch.testing.assert_close(held.xyz[origin], xyz[origin])
    for k, view in enumerate(footage.views):
        uv, z = project(camera_of(view), held.xyz[k])
        torch.testing.assert_close(uv, pixels + k, rtol=0.0, atol=1e-2)
        assert float((z / truth[k] - 1).abs().max()) < 0.08


def test_tracks_of_captures_with_depth_are_left_alone(stage: Stage) -> None:
    xyz = torch.rand(FRAMES, 5, 3) + 3
    tracks = PointTracks(tuple(range(FRAMES)), xyz, torch.ones(FRAMES, 5), torch.ones(5, dtype=torch.int32), 0)
    stage.footage.depth_maps[("cam", 2)] = stage.depth[2]
    assert anchored(stage.footage, tracks) is tracks


def test_floaters_are_looked_through_and_the_ground_is_not(stage: Stage) -> None:
    seen = (stage.footage.views, stage.depth)
    ground = stage.points[:: len(stage.points) // 50]
    floating = torch.tensor([[-0.9, 0.2, 3.0], [-0.6, -0.5, 6.0], [1.0, 0.1, 4.0]])
    close = torch.tensor([[0.0, 0.0, 0.3]])  # its own first view alone shows it
    assert not bool(looked_through(stage.footage, seen, ground, stage.points).any())
    assert bool(looked_through(stage.footage, seen, floating, stage.points).all())
    assert bool(looked_through(stage.footage, seen, close + torch.tensor([-0.5, 0.0, 0.0]), stage.points).all())


def test_a_point_that_few_views_contradict_is_kept(stage: Stage) -> None:
    depth = [d if k < 3 else 0.4 * d for k, d in enumerate(stage.depth)]
    floating = torch.tensor([[0.0, 0.2, 6.0]])
    assert not bool(looked_through(stage.footage, (stage.footage.views, depth), floating, stage.points).any())


def test_nearest_depth_is_half_of_that_of_the_nearest_hundredth(stage: Stage) -> None:
    view = stage.footage.views[0]
    xy = torch.zeros(1000, 2)
    points = torch.cat([xy, torch.arange(1, 1001)[:, None] * 0.1], 1) + torch.tensor([-0.5, 0.0, 0.0])
    assert nearest_depth(stage.footage, [view], points) == pytest.approx(0.5 * 1.1, rel=1e-4)


def textured(places: Tensor) -> Tensor:
    """Colours [H, W, 3] in [0, 1] of places [H, W, 3], with detail everywhere."""
    waves = torch.tensor([[7.0, 3.0, 2.0], [-4.0, 6.0, 5.0], [3.0, -8.0, 4.0], [1.5, 2.5, -2.0]])
    phase = (places @ waves.T).sin() * torch.tensor([0.3, 0.25, 0.2, 0.25])
    return 0.5 + 0.5 * torch.stack([phase[..., :3].sum(-1), phase[..., 1:].sum(-1), phase.sum(-1)], -1).clamp(-1, 1)


def film(stage: Stage, moving: bool) -> dict[tuple[str, int], Tensor]:
    """Pictures of the stage without masks; the board stays at its distance and rises, or stays away."""
    images = {}
    for k, view in enumerate(stage.footage.views):
        rays = unproject(camera_of(view), grid_of(view), stage.depth[k].flatten()).reshape(HEIGHT, WIDTH, 3)
        picture = textured(rays)
        if moving:
            mask = board(view, k)
            at = unproject(camera_of(view), grid_of(view), (5.0 - 0.1 * k) * torch.ones(HEIGHT * WIDTH))
            own = textured(at.reshape(HEIGHT, WIDTH, 3) * 2 + torch.tensor([0.0, 0.2 * k, 0.0]))
            picture[mask] = 1 - own[mask]
        images[view.key] = (picture * 255).round().byte()
    return images


def grid_of(view: View) -> Tensor:
    x, y = torch.meshgrid(torch.arange(view.width) + 0.5, torch.arange(view.height) + 0.5, indexing="xy")
    return torch.stack([x, y], -1).reshape(-1, 2)


def board(view: View, k: int) -> Tensor:
    return mask_of(view, 5.0).roll(-round(0.1 * k * FOCAL / (5.0 - 0.1 * k)), 0)


def test_what_moves_against_the_still_scene_is_found_by_flow(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.footage.motion_masks.clear()
    images = film(stage, moving=True)
    monkeypatch.setattr(Footage, "image_u8", lambda self, view: images[view.key])
    add_flow_masks(stage.footage)
    for k, view in enumerate(stage.footage.views):
        found, truth = stage.footage.motion_masks[view.key], board(view, k)
        assert int((found & truth).sum()) > 0.5 * int((found | truth).sum()), k


def test_nothing_moves_in_pictures_of_a_still_scene(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.footage.motion_masks.clear()
    images = film(stage, moving=False)
    monkeypatch.setattr(Footage, "image_u8", lambda self, view: images[view.key])
    add_flow_masks(stage.footage)
    assert len(stage.footage.motion_masks) == FRAMES
    shares = [float(mask.float().mean()) for mask in stage.footage.motion_masks.values()]
    assert max(shares) < 0.02


def test_clouds_of_one_moving_camera_lie_on_the_ground_and_where_the_thing_stands(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, generator = film(stage, moving=False), torch.Generator().manual_seed(0)
    monkeypatch.setattr(Footage, "image_u8", lambda self, view: images[view.key])
    still = static_cloud(stage.footage, {}, 3000, generator)
    assert len(still) > 1000
    assert int(still.instances.max()) == 0
    off = torch.minimum((still.xyz[:, 1] - GROUND).abs(), (still.xyz[:, 2] - WALL).abs())
    assert float(off.median()) < 0.02
    assert float(off.quantile(0.95)) < 0.5
    moving = moving_cloud(stage.footage, 3, 3000, generator)
    assert moving is not None
    view = stage.footage.views[3]
    uv, z = project(camera_of(view), moving.xyz)
    assert bool(mask_of(view, STANDS[3])[uv[:, 1].long(), uv[:, 0].long()].all())
    assert float((z / true_depths(stage)[3] - 1).abs().max()) < 0.15
    assert bool((moving.instances == 1).all())
    torch.testing.assert_close(moving.rgb, images[view.key][uv[:, 1].long(), uv[:, 0].long()] / 255)


def test_given_masks_are_left_alone(stage: Stage) -> None:
    before = dict(stage.footage.motion_masks)
    add_flow_masks(stage.footage)
    assert all(stage.footage.motion_masks[key] is mask for key, mask in before.items())


# -- depth maps


def inverse_png(path: Path, depth: Tensor, k: int) -> None:
    cv2.imwrite(str(path), ((0.7 / depth + 0.1) * (10_000 * (1 + k))).round().numpy().astype(np.uint16))


def depth_npy(path: Path, depth: Tensor, k: int) -> None:
    np.save(path, (1 / ((1 / depth + 0.02) * (1 + k))).numpy())


@pytest.mark.parametrize(("kind", "suffix", "write"), [("inverse", "png", inverse_png), ("depth", "npy", depth_npy)])
def test_relative_maps_in_a_folder_come_back_as_depth(stage: Stage, tmp_path: Path, kind, suffix, write) -> None:
    for k, depth in enumerate(stage.depth):  # frame10 would sort before frame8 by characters
        write(tmp_path / f"frame{k + 4}.{suffix}", depth, k)
    found = add_depth_maps(stage.footage, folder_reader(tmp_path, stage.footage.capture), kind)
    assert max(a.residual for a in found.values()) < 0.06  # a point is up to half a pixel from the map's ray
    scales = torch.tensor([a.scale for a in found.values()])  # maps are taken in order: the k-th is k + 1 times larger
    torch.testing.assert_close(scales * torch.arange(1, FRAMES + 1), scales[:1].repeat(FRAMES), rtol=0.1, atol=0.0)
    for k, view in enumerate(stage.footage.views):
        got = stage.footage.depth(view)
        assert got is not None
        assert float(((got - stage.depth[k]) / stage.depth[k]).abs().median()) < 0.02


def test_points_that_a_masked_thing_hides_do_not_bend_the_alignment(stage: Stage) -> None:
    big = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    big[10:, 5:85] = True  # most points are behind it
    maps = {v.key: torch.where(big, 2.0, stage.depth[k]) for k, v in enumerate(stage.footage.views)}
    for view in stage.footage.views:
        stage.footage.motion_masks[view.key] = big
    found = add_depth_maps(stage.footage, lambda view: 0.5 / maps[view.key], "inverse")
    for key, alignment in found.items():
        assert alignment.scale == pytest.approx(2.0, rel=0.05), key


def test_metric_maps_are_taken_as_they_are_and_their_error_is_told(stage: Stage) -> None:
    found = add_depth_maps(stage.footage, lambda view: 1.1 * stage.depth[view.frame], "metric")
    got = stage.footage.depth(stage.footage.views[2])
    assert got is not None
    torch.testing.assert_close(got, 1.1 * stage.depth[2])
    assert found[("cam", 2)].residual == pytest.approx(0.1, abs=0.02)


def test_sky_is_put_behind_all_points(stage: Stage) -> None:
    def read(view: View) -> Tensor:
        q = 1 / stage.depth[view.frame] - 1 / WALL  # the wall is at zero
        q[:10] = -1.0
        return q

    add_depth_maps(stage.footage, read, "inverse")
    got = stage.footage.depth(stage.footage.views[0])
    assert got is not None
    torch.testing.assert_close(got[:10], torch.full_like(got[:10], WALL / 0.25), rtol=1e-3, atol=0.0)


def test_bad_folders_of_maps_are_input_errors(stage: Stage, tmp_path: Path) -> None:
    capture = stage.footage.capture
    with pytest.raises(InputError, match="no such folder"):
        folder_reader(tmp_path / "none", capture)
    np.save(tmp_path / "0.npy", np.ones((4, 4), np.float32))
    with pytest.raises(InputError, match="1 depth maps .* for 8 frames of camera cam"):
        folder_reader(tmp_path, capture)
    with pytest.raises(ValueError, match="kind must be one of metric, depth, inverse, got 'mm'"):
        add_depth_maps(stage.footage, lambda view: stage.depth[0], "mm")
    with pytest.raises(InputError, match="camera cam, frame 0: 0 sparse points"):
        add_depth_maps(stage.footage, lambda view: torch.zeros(HEIGHT, WIDTH), "depth")
