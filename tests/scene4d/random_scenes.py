"""Scenes and rigs with random numbers in every parameter, for tests."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from scene4d.rig import CUBIC, LINEAR, Rig
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_from_tensors, scene_tensors


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_rig(
    counts: list[int],  # knots of each handle
    parents: list[int] | None = None,
    instances: list[int] | None = None,
    interpolations: list[int] | None = None,
    seed: int = 0,
) -> Rig:
    """Knots at uneven times from about 0 to about 1, in float64. By default: no tree, one instance, both kinds."""
    g = torch.Generator().manual_seed(seed)
    J, L = len(counts), sum(counts)
    times = [torch.linspace(0, 1, n) + (0.3 / max(n, 2)) * torch.rand(n, generator=g) for n in counts]
    return Rig(
        centers=torch.randn(J, 3, generator=g).double(),
        parents=torch.tensor(parents or [-1] * J, dtype=torch.int32),
        instances=torch.tensor(instances or [0] * J, dtype=torch.int32),
        interpolations=torch.tensor(interpolations or [(LINEAR, CUBIC)[j % 2] for j in range(J)], dtype=torch.int32),
        knot_counts=torch.tensor(counts, dtype=torch.int32),
        knot_times=torch.cat(times).double(),
        knot_quats=(torch.randn(L, 4, generator=g) + torch.tensor([2.0, 0, 0, 0])).double(),
        knot_translations=torch.randn(L, 3, generator=g).double(),
    )


def random_scene(N: int = 6, M: int = 4, degree: int = 3, rig: Rig | None = None, seed: int = 0) -> Scene4D:
    """All parts present, in float64. Gaussian i has the instance of handle i mod J; some slots are empty."""
    g = torch.Generator().manual_seed(seed)
    rig = rig or random_rig([3, 1, 4, 5, 2], parents=[-1, 0, -1, 1, 3], seed=seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).double()

    instances = rig.instances[torch.arange(N) % len(rig)]
    handle_ids = torch.full((N, M), -1, dtype=torch.int32)
    for i in range(N):
        own = (rig.instances == instances[i]).nonzero()[:, 0]
        handle_ids[i] = own[torch.randint(len(own), (M,), generator=g)].int()
    empty = torch.rand(N, M, generator=g) < 0.3
    return Scene4D(
        means=normal(N, 3),
        quats=normal(N, 4),
        log_scales=normal(N, 3),
        logit_opacities=normal(N),
        sh=normal(N, 4, 3),
        labels=torch.randint(5, (N,), generator=g, dtype=torch.int32),
        instances=instances,
        rig=rig,
        handle_ids=torch.where(empty, -1, handle_ids),
        handle_logits=normal(N, M),
        residuals=normal(N, degree, 3),
        t_ref=normal(N),
        t_on=normal(N) - 0.5,
        t_off=normal(N) + 1.5,
        log_softness=normal(N) - 2,
    )


def still_rig(translations: list[list[float]], centers: list[list[float]] | None = None) -> Rig:
    """One knot a handle: no rotation, these translations."""
    J = len(translations)
    zero = torch.zeros(J, dtype=torch.int32)
    return Rig(
        centers=torch.zeros(J, 3).double() if centers is None else f64(centers),
        parents=zero - 1,
        instances=zero,
        interpolations=zero.clone(),
        knot_counts=zero + 1,
        knot_times=torch.zeros(J).double(),
        knot_quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(J, 1).double(),
        knot_translations=f64(translations),
    )


def with_grad(scene: Scene4D) -> tuple[Scene4D, dict[str, Tensor]]:
    """The scene with every floating tensor a leaf that requires grad, and these leaves by name."""
    tensors = {n: x.detach().clone().requires_grad_(x.is_floating_point()) for n, x in scene_tensors(scene).items()}
    leaves = {name: x for name, x in tensors.items() if x.requires_grad}
    return scene_from_tensors(tensors), leaves


def with_tensor(scene: Scene4D, name: str, value: Tensor) -> Scene4D:
    """The scene with one tensor, named as in `scene_tensors`, replaced."""
    if name.startswith("rig."):
        assert scene.rig is not None
        return replace(scene, rig=replace(scene.rig, **{name.removeprefix("rig."): value}))
    return replace(scene, **{name: value})


RIG_FIELDS = [field.name for field in fields(Rig)]
