"""Projects and scenes with awkward numbers in every place, for tests of what is written to files."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from renderers.checks import MAX_LOG_SCALE
from scene4d.files.project import Project
from scene4d.files.project_cameras import ProjectCamera
from scene4d.rig import Rig
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_hash
from tests.scene4d.random_scenes import random_scene


def any_floats(g: torch.Generator, *shape: int) -> Tensor:
    """Random bits that are finite numbers: denormals and -0 among them."""
    bits = torch.randint(-(2**31), 2**31, shape, generator=g).int()
    values = bits.view(torch.float32)
    return torch.where(values.isfinite(), values, -0.0)


def any_rig(J: int, g: torch.Generator) -> Rig:
    """1, 2, ... knots a handle; a handle's parent is an earlier one of its instance, if there is one."""
    counts = torch.arange(1, J + 1, dtype=torch.int32)
    L = int(counts.sum())
    instances = torch.randint(0, 3, (J,), generator=g, dtype=torch.int32)
    parents = [max((k for k in range(j) if instances[k] == instances[j]), default=-1) for j in range(J)]
    steps = torch.rand(L, generator=g) + 0.01
    return Rig(
        centers=any_floats(g, J, 3),
        parents=torch.tensor(parents, dtype=torch.int32),
        instances=instances,
        interpolations=torch.randint(0, 2, (J,), generator=g, dtype=torch.int32),
        knot_counts=counts,
        knot_times=steps.cumsum(0) - 1,
        knot_quats=any_floats(g, L, 4),
        knot_translations=any_floats(g, L, 3),
    )


def any_scene(
    N: int = 7, S: int = 4, P: int | None = 1, M: int = 2, J: int | None = 3, *, window: bool = True, seed: int = 0
) -> Scene4D:
    """P, J None, no window: without that part."""
    g = torch.Generator().manual_seed(seed)
    log_scales = any_floats(g, N, 3)
    scene = {
        "means": any_floats(g, N, 3),
        "quats": any_floats(g, N, 4),
        "log_scales": torch.where(log_scales > MAX_LOG_SCALE, -log_scales, log_scales),
        "logit_opacities": any_floats(g, N),
        "sh": any_floats(g, N, S, 3),
        "labels": torch.randint(0, 2**31 - 1, (N,), generator=g).int(),
        "instances": torch.randint(0, 4, (N,), generator=g, dtype=torch.int32),
    }
    rig = None if J is None else any_rig(J, g)
    if rig is not None:
        own = rig.instances[None] == scene["instances"][:, None]  # [N, J]
        draw = torch.rand(N, M, len(rig) + 1, generator=g)
        draw[:, :, 1:] *= own[:, None]  # entry 0: an empty slot
        scene |= {"handle_ids": (draw.argmax(2) - 1).int(), "handle_logits": any_floats(g, N, M)}
    if P is not None:
        scene |= {"residuals": any_floats(g, N, P, 3), "t_ref": any_floats(g, N)}
    if window:
        edges = torch.randn(2, N, generator=g).sort(0).values
        edges[0, ::3], edges[1, 1::3] = -torch.inf, torch.inf
        scene |= {"t_on": edges[0], "t_off": edges[1], "log_softness": 40 * torch.rand(N, generator=g) - 20}
    return Scene4D(rig=rig, **scene)


def moving_scene(N: int = 40) -> Scene4D:
    """float32, all parts there, numbers of everyday size."""
    scene = random_scene(N).to(dtype=torch.float32)
    assert scene.t_on is not None and scene.t_off is not None
    return replace(scene, t_off=torch.maximum(scene.t_on, scene.t_off), sh=torch.randn(N, 16, 3))


def any_project(seed: int = 0, N: int = 7) -> Project:
    g = torch.Generator().manual_seed(seed)
    K = torch.randn(1, 3, 3, generator=g, dtype=torch.float64)
    moving = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    exposure = torch.randn(3, 4, generator=g, dtype=torch.float64)
    times = (0.0, 1 / 3, 2 / 3)
    cameras = (
        ProjectCamera("still", 160, 121, times, K, moving[:1]),
        ProjectCamera("moving", 33, 44, times, K.expand(3, 3, 3) * moving[:, :3, :3], moving, exposure),
    )
    fit = {"long_side": 960, "frames": None, "hold_out": "0:60:8", "weights": [0.1, {"é": True}]}
    scene = any_scene(N, seed=seed)
    return Project(scene, "../capture", cameras, ({"name": f"move {seed}"},), "m", 29.97, 1 / 3, fit)


def same(a: Project, b: Project) -> bool:
    """Whether all of both is equal, to the bit."""
    plain = ("capture", "edits", "units", "fps", "canonical_time", "fit")
    if any(getattr(a, name) != getattr(b, name) for name in plain) or scene_hash(a.scene) != scene_hash(b.scene):
        return False
    return len(a.cameras) == len(b.cameras) and all(
        (x.name, x.width, x.height, x.times) == (y.name, y.width, y.height, y.times)
        and torch.equal(x.K, y.K)
        and torch.equal(x.world_to_cam, y.world_to_cam)
        and (None if x.exposure is None else x.exposure.tolist())
        == (None if y.exposure is None else y.exposure.tolist())
        for x, y in zip(a.cameras, b.cameras, strict=True)
    )
