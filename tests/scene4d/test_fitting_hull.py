"""The visual hull, against cones: the silhouette of a sphere is a cone around it, whatever the camera."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from renderers import Cameras
from scene4d.fitting.flows import pixel_grid
from scene4d.fitting.hull import large_parts, project, silhouette_votes, surface, visual_hull, working_region
from scene4d.worlds.rigs import look_at

RADIUS, REACH, SIDE, FOCAL = 0.5, 4.0, 160, 260.0
CENTER = np.array([0.3, -0.2, 1.0])


def camera(direction: tuple[float, float, float], reach: float = REACH) -> Cameras:
    """Looks at CENTER from `reach` away along the direction."""
    eye = CENTER + reach * np.asarray(direction) / np.linalg.norm(direction)
    K = torch.tensor([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
    return Cameras(torch.from_numpy(look_at(eye, CENTER)).float()[None], K[None], SIDE, SIDE)


def around(n: int) -> list[Cameras]:
    """n cameras evenly over the sphere of directions (Fibonacci's spiral)."""
    z = 1 - 2 * (np.arange(n) + 0.5) / n
    turn = np.pi * (3 - 5**0.5) * np.arange(n)
    flat = np.sqrt(1 - z**2)
    return [camera((flat[i] * np.cos(turn[i]), flat[i] * np.sin(turn[i]), z[i])) for i in range(n)]


def mask_of_sphere(cam: Cameras, radius: float = RADIUS) -> Tensor:
    """Pixels whose ray hits the sphere: the angle to its centre is at most asin(r / distance)."""
    K, pose = cam.K[0], cam.world_to_cam[0]
    rays = torch.cat([(pixel_grid(SIDE, SIDE) - K[:2, 2]) / FOCAL, torch.ones(SIDE, SIDE, 1)], -1)
    center = pose[:3, :3] @ torch.from_numpy(CENTER).float() + pose[:3, 3]
    cosine = (rays @ center) / (rays.norm(dim=-1) * center.norm())
    return cosine >= math.cos(math.asin(radius / float(center.norm())))


def in_cone(cam: Cameras, points: Tensor, radius: float = RADIUS) -> Tensor:
    """Bool [n]: inside the cone from the camera that touches the sphere."""
    eye, center = cam.centers[0], torch.from_numpy(CENTER).float()
    cosine = torch.cosine_similarity(points - eye, (center - eye)[None], dim=1)
    return cosine >= math.cos(math.asin(radius / float((center - eye).norm())))


def cone_volume(cameras: list[Cameras], needed: int) -> float:
    """Volume of the points that lie in at least `needed` of the cones, by a fine grid."""
    side = 0.025
    steps = (torch.arange(64) - 31.5) * side
    grid = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    votes = torch.stack([in_cone(cam, grid + torch.from_numpy(CENTER).float()) for cam in cameras]).sum(0)
    return float((votes >= needed).sum()) * side**3


def near_center(cells: Tensor) -> Tensor:
    """Cells within a metre: what only two cameras have in their pictures, far off, is another matter."""
    return cells[(cells - torch.from_numpy(CENTER).float()).norm(dim=1) < 1.0]


def test_hull_of_a_sphere_is_the_meeting_of_its_cones() -> None:
    cameras = around(6)
    cells, side = visual_hull(cameras, [mask_of_sphere(c) for c in cameras], 3000)
    cells = near_center(cells)
    assert len(cells) >= 2000
    # one silhouette of six may have a hole; the masks' pixels are a hundredth of the radius
    assert abs(len(cells) * side**3 / cone_volume(cameras, 5) - 1) < 0.03
    # no point of the sphere is missing, none lies outside the slightly larger cones
    g = torch.Generator().manual_seed(0)
    inner = torch.nn.functional.normalize(torch.randn(500, 3, generator=g), dim=1) * RADIUS * 0.95
    inner = inner * torch.rand(500, 1, generator=g) ** (1 / 3) + torch.from_numpy(CENTER).float()
    assert float(torch.cdist(inner, cells).amin(1).max()) < side
    loose = torch.stack([in_cone(c, cells, RADIUS * 1.03) for c in cameras]).sum(0)
    assert int(loose.min()) >= 5


def test_hull_of_a_sphere_seen_from_everywhere_has_its_volume() -> None:
    cameras = around(20)
    cells, side = visual_hull(cameras, [mask_of_sphere(c) for c in cameras], 2000)
    cells = near_center(cells)
    assert abs(len(cells) * side**3 / (4 / 3 * math.pi * RADIUS**3) - 1) < 0.04
    torch.testing.assert_close(cells.mean(0), torch.from_numpy(CENTER).float(), atol=0.01, rtol=0)


def test_one_lost_silhouette_of_six_does_no_harm_and_one_of_three_leaves_nothing() -> None:
    six, three = around(6), around(3)
    masks = [mask_of_sphere(c) for c in six]
    masks[2] = torch.zeros_like(masks[2])
    cells, side = visual_hull(six, masks, 3000)
    rest = [c for k, c in enumerate(six) if k != 2]
    assert abs(len(near_center(cells)) * side**3 / cone_volume(rest, 5) - 1) < 0.03
    some = [mask_of_sphere(c) for c in three]
    assert len(visual_hull(three, some, 1000)[0]) > 1000
    assert len(visual_hull(three, [*some[:2], torch.zeros_like(some[2])], 1000)[0]) == 0


def test_a_rod_thinner_than_the_first_cells_keeps_its_length() -> None:
    """Half a metre long, 4 cm thick; the first grid's cells are 17 cm."""
    cameras = [camera(d) for d in ((1, 0, 0.1), (0, 1, 0.1), (0.7, 0.7, 0.2), (0.7, -0.7, -0.2))]
    along = torch.linspace(-0.25, 0.25, 200)[:, None] * torch.tensor([0.0, 0.0, 1.0])
    masks = []
    for cam in cameras:
        uv, z = project(cam, along + torch.from_numpy(CENTER).float())
        near = torch.cdist(pixel_grid(SIDE, SIDE).reshape(-1, 2), uv).amin(1)
        masks.append((near < 0.02 * FOCAL / float(z.mean())).reshape(SIDE, SIDE))
    cells, side = visual_hull(cameras, masks, 1500)
    extent = cells.max(0).values - cells.min(0).values + side
    assert abs(float(extent[2]) - 0.54) < 0.06  # with the round ends
    assert float(extent[:2].max()) < 0.09


def test_votes_count_cameras_in_front_of_which_a_point_is_and_masks_that_it_lies_on() -> None:
    cameras = [camera((1, 0, 0)), camera((-1, 0, 0)), camera((0, 1, 0))]
    masks = [torch.ones(SIDE, SIDE, dtype=torch.bool), mask_of_sphere(cameras[1]), mask_of_sphere(cameras[2])]
    center = torch.from_numpy(CENTER).float()
    behind = center + torch.tensor([1.5 * REACH, 0.0, 0.0])  # behind the first, seen by the second only
    off = center + torch.tensor([0.0, 0.0, 0.8])  # in all pictures, on the first mask only
    seen, hits = silhouette_votes(cameras, masks, torch.stack([center, behind, off]))
    assert seen.tolist() == [3, 1, 3]
    assert hits.tolist() == [3, 1, 1]


def test_working_region_is_where_the_cameras_look() -> None:
    focus, reach = working_region(around(6))
    torch.testing.assert_close(focus, torch.from_numpy(CENTER).float(), atol=0.02, rtol=0)
    assert abs(reach - REACH) < 0.02
    side_by_side = [camera((0, -1, 0)), camera((0, -1, 0))]
    side_by_side[1].world_to_cam[0, 0, 3] += 0.5  # parallel axes meet nowhere
    focus, reach = working_region(side_by_side)
    assert bool(focus.isfinite().all()) and math.isfinite(reach)


def test_surface_of_a_block_is_its_outer_layer() -> None:
    steps = torch.stack(torch.meshgrid(torch.arange(7), torch.arange(5), torch.arange(6), indexing="ij"), -1)
    cells = 0.3 * steps.reshape(-1, 3).float() - 4.0
    outer = surface(cells, 0.3)
    assert int((~outer).sum()) == 5 * 3 * 4
    size = torch.tensor([6, 4, 5])
    edge = ((steps == 0) | (steps == size)).any(-1).reshape(-1)
    assert torch.equal(outer, edge)


def test_large_parts_drop_small_ones_that_touch_nothing() -> None:
    """Blocks of 1000, 64 and 27 cells, the last too small; one of 27 that touches the first at a corner."""

    def block(n: int, at: int) -> Tensor:
        steps = torch.arange(n) + at
        return torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3).float()

    cells = 0.1 * torch.cat([block(10, 0), block(4, 20), block(3, 30), block(3, 10)])
    kept = large_parts(cells, 0.1)
    parts = [bool(part.all()) for part in kept.split([1000, 64, 27, 27])]
    assert parts == [True, True, False, True]
    assert not bool(kept[1064:1091].any())
