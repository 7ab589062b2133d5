"""Coloured points to start from: of what stands still, and of what moves at one frame.

n points, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scene4d.captures import View
from scene4d.fitting.flows import pixel_grid, sample
from scene4d.fitting.footage import Footage
from scene4d.fitting.hull import inside, large_parts, project, surface, visual_hull
from scene4d.fitting.monocular import is_monocular, looked_through, masked_depth, static_points
from scene4d.fitting.sparse import completed_depth
from scene4d.fitting.tracking import unproject

MOST_VIEWS = 24  # whose pixels become points of the background
HULL_CELLS = 20_000
CONTRADICTED = 0.93  # a point nearer than this part of another view's own depth hides what that view saw


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with what a Gaussian at each of them should look like."""

    xyz: Tensor  # [n, 3]
    rgb: Tensor  # [n, 3]
    radius: Tensor  # [n] scene units
    instances: Tensor  # [n] int32

    def __len__(self) -> int:
        return len(self.xyz)

    def pick(self, rows: Tensor) -> Cloud:
        return Cloud(self.xyz[rows], self.rgb[rows], self.radius[rows], self.instances[rows])


def join(clouds: list[Cloud]) -> Cloud:
    return Cloud(
        torch.cat([c.xyz for c in clouds]),
        torch.cat([c.rgb for c in clouds]),
        torch.cat([c.radius for c in clouds]),
        torch.cat([c.instances for c in clouds]),
    )


def pixel_cloud(footage: Footage, view: View, depth: Tensor, picture: Tensor, pick: Tensor, stride: int) -> Cloud:
    """Points of the pixels of a view where `pick` [H, W] is set and depth is known, every `stride`-th of both axes."""
    camera = footage.capture.cameras([view])
    start = stride // 2
    cut = (slice(start, None, stride), slice(start, None, stride))
    good = (pick & (depth > 0))[cut]
    pixels = pixel_grid(view.height, view.width)[cut][good]
    z = depth[cut][good]
    ids = footage.instances(view)
    owner = torch.zeros(len(z), dtype=torch.int32) if ids is None else ids[cut][good].int()
    radius = 0.6 * stride * z / float(camera.K[0, 0, 0])
    return Cloud(unproject(camera, pixels, z), picture[cut][good], radius, owner)


def thinned(cloud: Cloud, most: int, generator: torch.Generator) -> Cloud:
    """At most `most` points: one of each cell of a grid, the grid as fine as that allows; then chance decides."""
    if len(cloud) <= most:
        return cloud
    order = torch.randperm(len(cloud), generator=generator)
    cloud = cloud.pick(order)
    some = cloud.xyz[:100_000]  # in an order of chance; quantile() takes 16 million values at most
    extent = max(float((some.quantile(0.98, 0) - some.quantile(0.02, 0)).max()), 1e-9)
    low, high = extent * 1e-4, extent
    kept = torch.arange(len(cloud))
    for _ in range(12):  # by bisection of the cell's side
        side = (low * high) ** 0.5
        first = _first_of_cells(cloud.xyz, side)
        if len(first) > most:
            low = side
        else:
            high, kept = side, first
    grown = cloud.pick(kept[:most])
    return Cloud(grown.xyz, grown.rgb, torch.maximum(grown.radius, torch.tensor(0.5 * high)), grown.instances)


def _first_of_cells(xyz: Tensor, side: float) -> Tensor:
    cells = ((xyz - xyz.min(0).values) / side).long()
    size = cells.max(0).values + 1
    _, inverse = ((cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]).unique(return_inverse=True)
    first = torch.full((int(inverse.max()) + 1,), len(xyz), dtype=torch.int64)
    first.scatter_reduce_(0, inverse, torch.arange(len(xyz)), "amin")
    return first.sort().values


def static_cloud(footage: Footage, backgrounds: dict[str, Tensor], most: int, generator: torch.Generator) -> Cloud:
    """What stands still: pixels at measured depth, or at the depth of sparse points, or of triangulated features."""
    views = _spread_views(footage, backgrounds)
    measured = any(footage.depth(v) is not None for v in views)
    points = None if measured and footage.capture.points is None else static_points(footage, backgrounds)
    alone = points is not None and is_monocular(footage)
    depths, stride = [], max(1, int((sum(v.width * v.height for v in views) / (4 * most)) ** 0.5))
    for view in views:
        depth = footage.depth(view)
        if depth is None and points is not None:
            depth = completed_depth(footage, view, points)
        depths.append(depth if depth is not None else _far_depth(footage, view))
    clouds = []
    for k, view in enumerate(views):
        still, ids = torch.ones(view.height, view.width, dtype=torch.bool), footage.instances(view)
        picture = backgrounds.get(view.camera)
        if ids is not None and (picture is None or footage.depth(view) is not None):
            still &= ids == 0
        valid = footage.valid(view)
        cloud = pixel_cloud(
            footage,
            view,
            depths[k],
            footage.image(view) if picture is None else picture,
            still if valid is None else still & valid,
            stride,
        )
        cloud = Cloud(cloud.xyz, cloud.rgb, cloud.radius, torch.zeros_like(cloud.instances))
        cloud = cloud.pick(_believed(footage, views, depths, k, cloud.xyz))
        if alone and points is not None:
            cloud = cloud.pick(~looked_through(footage, (views, depths), cloud.xyz, points))
        clouds.append(cloud)
    return thinned(join(clouds), most, generator)


def _spread_views(footage: Footage, backgrounds: dict[str, Tensor]) -> list[View]:
    """One view of each still camera; views of moving cameras evenly."""
    chosen = []
    for name in footage.camera_names:
        views = footage.of_camera(name)
        if name in backgrounds or footage.capture.is_static(name):
            chosen.append(views[len(views) // 2])
        else:
            chosen += views[:: max(1, len(views) // MOST_VIEWS)]
    return chosen


def _far_depth(footage: Footage, view: View) -> Tensor:
    """Without any point: a wall as far behind the middle of the scene as the camera is in front of it."""
    from scene4d.fitting.footage import scene_size

    return torch.full((view.height, view.width), 2 * scene_size(footage))


def _believed(footage: Footage, views: list[View], depths: list[Tensor], own: int, xyz: Tensor) -> Tensor:
    """Bool [n]: points that no other view looks through. Only measured depth is asked."""
    keep = torch.ones(len(xyz), dtype=torch.bool)
    for k, view in enumerate(views):
        if k == own or footage.depth(view) is None:
            continue
        camera = footage.capture.cameras([view])
        uv, z = project(camera, xyz)
        there = sample(depths[k], uv, "nearest")
        keep &= ~(inside(camera, uv, z) & (there > 0) & (z < CONTRADICTED * there))
    return keep


def moving_cloud(footage: Footage, frame: int, most: int, generator: torch.Generator) -> Cloud | None:
    """What moves at one frame: pixels of masks at measured depth, else the surface of the visual hull, else None.

    Of one moving camera: at the depth of the ground below them (`monocular`).
    """
    views = [v for v in footage.at(frame) if footage.instances(v) is not None]
    if not views:
        return None
    if all(footage.depth(v) is not None for v in views):
        clouds = []
        for view in views:
            ids, depth = footage.instances(view), footage.depth(view)
            assert ids is not None and depth is not None
            clouds.append(pixel_cloud(footage, view, depth, footage.image(view), ids > 0, 1))
        found = join(clouds)
        return thinned(found, most, generator) if len(found) else None
    if len(views) < 2:
        depth = masked_depth(footage, views[0], static_points(footage, {})) if is_monocular(footage) else None
        if depth is None:
            return None
        found = pixel_cloud(footage, views[0], depth, footage.image(views[0]), depth > 0, 1)
        return thinned(found, most, generator)
    return _hull_cloud(footage, views, most, generator)


def _hull_cloud(footage: Footage, views: list[View], most: int, generator: torch.Generator) -> Cloud | None:
    cameras = [footage.capture.cameras([v]) for v in views]
    ids = [footage.instances(v) for v in views]
    labels = sorted({int(i) for x in ids if x is not None for i in x.unique()} - {0})
    clouds = []
    for label in labels:
        masks = [x == label for x in ids if x is not None]
        cells, side = visual_hull(cameras, masks, HULL_CELLS)
        if not len(cells):
            continue
        cells = cells[large_parts(cells, side)]
        cells = cells[surface(cells, side)]
        rgb = _seen_color(footage, views, masks, cells, side)
        owner = torch.full((len(cells),), label, dtype=torch.int32)
        clouds.append(Cloud(cells, rgb, torch.full((len(cells),), 0.6 * side), owner))
    return thinned(join(clouds), most, generator) if clouds else None


def _seen_color(footage: Footage, views: list[View], masks: list[Tensor], xyz: Tensor, side: float) -> Tensor:
    """Mean colour [n, 3] in the pictures that have a point on their mask and nothing in front of it."""
    total, weight = torch.zeros(len(xyz), 3), torch.full((len(xyz), 1), 1e-6)
    for view, mask in zip(views, masks, strict=True):
        camera = footage.capture.cameras([view])
        uv, z = project(camera, xyz)
        cell = max(2.0, 1.5 * side * float(camera.K[0, 0, 0]) / max(float(z.median()), 1e-6))
        across = int(camera.width / cell) + 2
        index = (uv[:, 1] / cell).long().clamp(0, int(camera.height / cell)) * across
        index += (uv[:, 0] / cell).long().clamp(0, across - 1)
        nearest = torch.full((across * (int(camera.height / cell) + 2),), torch.inf)
        nearest.scatter_reduce_(0, index, z, "amin")
        good = inside(camera, uv, z) & (z < nearest[index] + 3 * side) & (sample(mask.float(), uv, "nearest") > 0.5)
        total += sample(footage.image(view), uv) * good[:, None]
        weight += good[:, None] + 1e-6
    return (total / weight).clamp(0, 1)
