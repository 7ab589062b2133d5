"""`splats_of_world`: a scene whose splats lie on the surfaces of a world and move exactly with its rigid things.

What a fit would find if nothing went wrong; for tests and benchmarks that need a scene at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from renderers import Cameras
from renderers.poses import LINEAR
from scene4d.channels import unproject
from scene4d.rig import Rig
from scene4d.scene import Scene4D
from scene4d.worlds import World, poses_at, trace

SH_ZERO = 0.28209479177387814  # of degree 0


def splats_of_world(world: World, cameras: Sequence[Cameras], times: Sequence[float], knots: np.ndarray) -> Scene4D:
    """A splat for every pixel of every camera (one each) at its time, thin along the normal. Each thing of the world
    follows a handle through its exact poses at `knots`; canonical is time 0."""
    start = poses_at(world, 0.0).T_world_rest
    parts = []
    for camera, time in zip(cameras, times, strict=True):
        truth = trace(world, camera, time, 1)
        seen = truth.parts[0].reshape(-1) >= 0
        xyz = unproject(truth.depth.double(), camera)[0].reshape(-1, 3)[seen]
        k = truth.parts[0].reshape(-1)[seen].long()
        back = start[k] @ torch.linalg.inv(poses_at(world, time).T_world_rest[k])
        canonical = (back[:, :3, :3] @ xyz[..., None])[..., 0] + back[:, :3, 3]
        normals = (back[:, :3, :3] @ truth.normals[0].reshape(-1, 3)[seen].double()[..., None])[..., 0]
        size = truth.depth[0].reshape(-1)[seen].double() / camera.K[0, 0, 0] * 0.6  # sd: pixels overlap
        parts.append((canonical, normals, size, truth.images[0].reshape(-1, 3)[seen].double(), k))
    xyz, normals, size, colors, k = (torch.cat(p) for p in zip(*parts, strict=True))
    instances = torch.tensor([o.instance for o in world.objects], dtype=torch.int32)[k]
    moving = [j for j, o in enumerate(world.objects) if o.instance]
    handle = torch.tensor(
        [moving.index(j) if j in moving else -1 for j in range(len(world.objects))], dtype=torch.int32
    )
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).expand_as(normals)
    half = torch.cat([1 + (axis * normals).sum(1, keepdim=True), torch.linalg.cross(axis, normals)], 1)
    flipped = half.norm(dim=1, keepdim=True) < 1e-6  # the other way round: any half turn
    turns = torch.where(flipped, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64), half)
    thin = torch.stack([size, size, size * 0.1], 1).log()
    N = len(xyz)
    return Scene4D(
        means=xyz.float(),
        quats=turns.float(),
        log_scales=thin.float(),
        logit_opacities=torch.full((N,), 4.0),
        sh=((colors - 0.5) / SH_ZERO)[:, None].float(),
        labels=torch.zeros(N, dtype=torch.int32),
        instances=instances,
        rig=_rig(world, moving, knots),
        handle_ids=handle[k][:, None].contiguous(),
        handle_logits=torch.zeros(N, 1),
    )


def _rig(world: World, moving: Sequence[int], knots: np.ndarray) -> Rig:
    start = poses_at(world, 0.0).T_world_obj
    quats, shifts = [], []
    for j in moving:
        for time in knots:
            T = poses_at(world, float(time)).T_world_obj[j] @ torch.linalg.inv(start[j])
            quats.append(Rotation.from_matrix(T[:3, :3].numpy()).as_quat(scalar_first=True))
            shifts.append((T[:3, :3] @ start[j, :3, 3] + T[:3, 3] - start[j, :3, 3]).numpy())
    J = len(moving)
    return Rig(
        centers=start[list(moving), :3, 3].float(),
        parents=torch.full((J,), -1, dtype=torch.int32),
        instances=torch.tensor([world.objects[j].instance for j in moving], dtype=torch.int32),
        interpolations=torch.full((J,), LINEAR, dtype=torch.int32),
        knot_counts=torch.full((J,), len(knots), dtype=torch.int32),
        knot_times=torch.from_numpy(np.tile(knots, J)).float(),
        knot_quats=torch.from_numpy(np.stack(quats)).float(),
        knot_translations=torch.from_numpy(np.stack(shifts)).float(),
    )
