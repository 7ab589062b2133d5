"""Points carried through time by the optical flow of all cameras that see them.

n points, T frames, H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import KDTree
from torch import Tensor

from renderers import Cameras
from scene4d.captures import View
from scene4d.fitting.flows import PairFlow, guessed_flow, pair_flow, sample
from scene4d.fitting.footage import Footage, joined
from scene4d.fitting.hull import inside, project
from scene4d.fitting.rotations import procrustes

NEIGHBOURS = 16  # that a point moves with
PULL = 0.02  # of going on as before, relative to one camera's flow
INNER = 4  # pixels from the border of a mask, from where on flow is fully trusted
OUTLIER = 1.5  # pixels: a camera that is further off the others counts little
ROUNDS = 4  # of reweighting
POINT_SLACK = 6  # spacings of points between the nearest of them and one that is still seen
CELL = 3  # pixels: the grain of the depth test among points
DEPTH_SLACK = 0.04  # relative: a point this near to the surface is taken to be on it


@dataclass(frozen=True, eq=False)
class PointTracks:
    """Points that stay on their object."""

    frames: tuple[int, ...]  # [T]
    xyz: Tensor  # [T, n, 3]
    seen: Tensor  # [T, n] weight of the cameras whose flow carried the point to or from this frame
    instances: Tensor  # [n] int32
    origin: int  # index into frames: where the points were found


def track_points(footage: Footage, xyz: Tensor, instances: Tensor, frame: int) -> PointTracks:
    """Carry points [n, 3] of a training frame to all other training frames, away from it in both directions."""
    frames = footage.frames
    origin = frames.index(frame)
    cloud = PointCloud(xyz, instances)
    paths, seen = torch.zeros(len(frames), *xyz.shape), torch.zeros(len(frames), len(xyz))
    paths[origin] = xyz
    velocity = torch.zeros_like(xyz)
    for step in _directions(footage, origin):  # the second starts with the first one's speed, backwards
        speed, first, k = velocity, None, origin
        while 0 <= k + step < len(frames):
            a, b = frames[k], frames[k + step]
            gap = footage.time(b) - footage.time(a)
            move, count = carry(footage, paths[k], cloud, (a, b), speed * gap)
            paths[k + step] = paths[k] + move
            seen[k] = torch.maximum(seen[k], count)
            seen[k + step] = count
            speed = move / gap
            first = speed if first is None else first
            k += step
        velocity = velocity if first is None else first
    return PointTracks(tuple(frames), paths, seen, instances, origin)


def _directions(footage: Footage, origin: int) -> tuple[int, int]:
    """Forwards and backwards in time, the one with the shorter first step first."""
    times = [footage.time(f) for f in footage.frames]
    after = times[origin + 1] - times[origin] if origin + 1 < len(times) else float("inf")
    before = times[origin] - times[origin - 1] if origin else float("inf")
    return (1, -1) if after <= before else (-1, 1)


class PointCloud:
    """Who moves with whom: found once, where the points lie apart."""

    def __init__(self, xyz: Tensor, instances: Tensor, nearness: Tensor | None = None) -> None:
        """Points [n, 3]; those whose `nearness` [n, d] is near, their places if not given, move alike."""
        self.instances = instances
        self.near, self.weights = neighbours(xyz if nearness is None else nearness, instances, NEIGHBOURS)
        distance, _ = KDTree(xyz.numpy()).query(xyz.numpy(), k=min(2, len(xyz)))
        self.spacing = float(np.median(distance[:, -1])) if len(xyz) > 1 else 1.0

    def smooth(self, xyz: Tensor, move: Tensor, trust: Tensor) -> Tensor:
        """Each point moves [n, 3] as the rigid motion that fits its neighbours best, by trust [n]."""
        weights = self.weights * trust[self.near]
        weights = (weights / weights.sum(1, keepdim=True).clamp_min(1e-12))[..., None]
        here, there = xyz[self.near], (xyz + move)[self.near]
        middle, goal = (weights * here).sum(1), (weights * there).sum(1)
        cross = (
            weights[..., None] * (there - goal[:, None])[..., :, None] * (here - middle[:, None])[..., None, :]
        ).sum(1)
        turned = (procrustes(cross) @ (xyz - middle)[..., None])[..., 0]
        return turned + goal - xyz


def neighbours(xyz: Tensor, instances: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices [n, k] of the nearest points of the same instance, itself first, and weights [n, k] by distance."""
    n = len(xyz)
    near, weights = torch.arange(n)[:, None].repeat(1, count), torch.zeros(n, count)
    weights[:, 0] = 1
    for instance in instances.unique().tolist():
        rows = (instances == instance).nonzero()[:, 0]
        points = xyz[rows].numpy()
        k = min(count, len(rows))
        distance, index = KDTree(points).query(points, k=k)
        distance, index = distance.reshape(len(rows), k), index.reshape(len(rows), k)
        near[rows, :k] = rows[torch.from_numpy(index)]
        reach = np.maximum(distance[:, -1:], 1e-9)
        weights[rows, :k] = torch.from_numpy(np.exp(-2 * (distance / reach) ** 2)).float()
    return near, weights


def carry(
    footage: Footage, xyz: Tensor, cloud: PointCloud, frames: tuple[int, int], guess: Tensor
) -> tuple[Tensor, Tensor]:
    """How points [n, 3] move from one frame to another: [n, 3], and the number of cameras [n] that saw it.

    Robust least squares over cameras: sum_c rho(|J_c d - r_c|^2) + pull |d - guess|^2 in pixels, J the Jacobian of the
    projection, rho Geman and McClure's; with depth maps each camera gives all three coordinates. Then every point
    takes the rigid motion of its neighbourhood.
    """
    pictured = {v.camera: v for v in footage.at(frames[1])}
    pairs = [(v, pictured[v.camera]) for v in footage.at(frames[0]) if v.camera in pictured]
    said = [_camera_says(footage, pair, xyz, cloud, guess) for pair in pairs]
    move, count, informed = guess, torch.zeros(len(xyz)), bool(guess.any())
    for k in range(ROUNDS if len(said) > 2 else 1):
        normal, right, count = torch.zeros(len(xyz), 3, 3), torch.zeros_like(xyz), torch.zeros(len(xyz))
        scale = torch.zeros(len(xyz))
        for J, r, worth in said:
            off = (J @ move[..., None])[..., 0] - r
            wide = (J @ guess[..., None])[..., 0].norm(dim=1) / 3 + 3 * OUTLIER  # of a guess that may be a third off
            slack = wide if k == 0 else torch.full_like(worth, OUTLIER)
            kept = (1 + off.square().sum(1) / slack.square()) ** -2 if k or informed else torch.ones_like(worth)
            w = worth * kept
            normal += J.mT @ (w[:, None, None] * J)
            right += (J.mT @ (w[:, None] * r)[..., None])[..., 0]
            scale = torch.maximum(scale, w * J.square().sum((1, 2)) / 3)
            count += w
        pull = PULL * scale.clamp_min(1e-9)
        move = torch.linalg.solve(normal + pull[:, None, None] * torch.eye(3), right + pull[:, None] * guess)
    for _ in range(2):
        move = cloud.smooth(xyz, move, count.clamp(0, 2) + 1e-3)
    return move, count


def _camera_says(
    footage: Footage, views: tuple[View, View], xyz: Tensor, cloud: PointCloud, guess: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One camera's equations J d = r in pixels, [n, k, 3] and [n, k], and what they are worth [n], 0 = not seen."""
    a, b = views
    cam_a, cam_b = footage.capture.cameras([a]), footage.capture.cameras([b])
    uv, z = project(cam_a, xyz)
    flow = _flow_between(footage, views, uv, project(cam_b, xyz + guess)[0], cloud.instances)
    seen = inside(cam_a, uv, z) & (sample(flow.good.float(), uv) > 0.99)
    ids, ids_b = footage.instances(a), footage.instances(b)
    target = uv + sample(flow.flow, uv)
    if ids is not None:
        seen &= sample(ids.float(), uv, "nearest").int() == cloud.instances
    if ids_b is not None:
        seen &= sample(ids_b.float(), target, "nearest").int() == cloud.instances
    depth_a, depth_b = footage.depth(a), footage.depth(b)
    surface = _point_depth(uv, z, seen, cloud.spacing, cam_a) if depth_a is None else sample(depth_a, uv, "nearest")
    slack = cloud.spacing * POINT_SLACK if depth_a is None else DEPTH_SLACK * z
    seen &= (z - surface < slack) & (surface > 0)
    worth = seen.float() if ids is None else seen * _depth_inside(ids, uv)
    if depth_a is None or depth_b is None:
        jacobian, here = _jacobian(cam_b, xyz)
        return jacobian, target - here, worth
    there = sample(depth_b, target, "nearest")
    worth = worth * ((there > 0) & ((there - z).abs() < 0.2 * z))
    per_length = cam_a.K[0, 0, 0] / z.clamp_min(1e-6)
    move = unproject(cam_b, target, there + (z - surface)) - xyz
    return per_length[:, None, None] * torch.eye(3), per_length[:, None] * move, worth


def _depth_inside(ids: Tensor, uv: Tensor) -> Tensor:
    """Weights [n] in (0, 1] of pixels [n, 2]: flow near the border of a mask is mixed with what lies beyond."""
    edges = cv2.morphologyEx(ids.to(torch.int16).numpy(), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    distance = torch.from_numpy(cv2.distanceTransform((~edges).astype(np.uint8), cv2.DIST_L2, 3))
    return (sample(distance, uv, "nearest") / INNER).clamp(0.05, 1.0).square()


def _flow_between(footage: Footage, views: tuple[View, View], uv: Tensor, to: Tensor, owners: Tensor) -> PairFlow:
    """Flow between two frames of a camera, looked for around where points at `uv` [n, 2] are expected `to` be."""
    a, b = views
    layers = [footage.image_u8(a), footage.image_u8(b), footage.instances(a), footage.instances(b)]
    box = joined(footage.moving_box(a), footage.moving_box(b))
    if box is not None:  # nothing is asked outside of what moves
        layers = [None if x is None else x[box.top : box.bottom, box.left : box.right].contiguous() for x in layers]
        corner = uv.new_tensor([box.left, box.top])
        uv, to = uv - corner, to - corner
    image_a, image_b, ids_a, ids_b = layers
    assert image_a is not None and image_b is not None
    guess = back = None
    if ids_a is not None and ids_b is not None:
        guess = guessed_flow(ids_a, ids_b, uv, to - uv, owners)
        back = guessed_flow(ids_b, ids_a, to, uv - to, owners)
    found = pair_flow(image_a, image_b, guess, back, side=min(a.height, a.width))
    if box is None:
        return found
    flow, good = torch.zeros(a.height, a.width, 2), torch.zeros(a.height, a.width, dtype=torch.bool)
    flow[box.top : box.bottom, box.left : box.right] = found.flow
    good[box.top : box.bottom, box.left : box.right] = found.good
    return PairFlow(flow, good)


def _jacobian(camera: Cameras, xyz: Tensor) -> tuple[Tensor, Tensor]:
    """d pixel / d point [n, 2, 3], and the pixels [n, 2]."""
    R, K = camera.world_to_cam[0, :3, :3], camera.K[0]
    local = xyz @ R.T + camera.world_to_cam[0, :3, 3]
    z = local[:, 2].clamp_min(1e-6)
    u, v = local[:, 0] / z, local[:, 1] / z
    zero = torch.zeros_like(z)
    by_local = torch.stack(
        [
            torch.stack([K[0, 0] / z, zero, -K[0, 0] * u / z], -1),
            torch.stack([zero, K[1, 1] / z, -K[1, 1] * v / z], -1),
        ],
        1,
    )
    pixels = torch.stack([K[0, 0] * u + K[0, 2], K[1, 1] * v + K[1, 2]], -1)
    return by_local @ R, pixels


def unproject(camera: Cameras, pixels: Tensor, z: Tensor) -> Tensor:
    """World points [n, 3] of pixels [n, 2] at depths z [n]."""
    K = camera.K[0].to(pixels.dtype)
    local = torch.stack(
        [(pixels[:, 0] - K[0, 2]) / K[0, 0], (pixels[:, 1] - K[1, 2]) / K[1, 1], torch.ones_like(z)], -1
    )
    world_to_cam = camera.world_to_cam[0].to(pixels.dtype)
    return (local * z[:, None] - world_to_cam[:3, 3]) @ world_to_cam[:3, :3]


def _point_depth(uv: Tensor, z: Tensor, seen: Tensor, spacing: float, camera: Cameras) -> Tensor:
    """For each point the smallest depth [n] of the points around its pixel."""
    reach = float(camera.K[0, 0, 0]) * spacing / float(z[seen].median()) if bool(seen.any()) else 1.0
    cell = max(CELL, round(1.5 * reach))
    across = camera.width // cell + 2
    index = (uv[:, 1] / cell).long().clamp(0, camera.height // cell) * across + (uv[:, 0] / cell).long().clamp(
        0, across - 1
    )
    nearest = torch.full((across * (camera.height // cell + 2),), torch.inf)
    nearest.scatter_reduce_(0, index[seen], z[seen], "amin")
    around = -F.max_pool2d(-nearest.reshape(1, -1, across), 3, 1, 1).reshape(-1)  # also of the cells around
    return around[index].nan_to_num(posinf=0.0)
