"""Motions with random numbers in every parameter, and what comes out of them, for tests."""

from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from renderers.motion import Motion, move_gaussians
from renderers.quaternions import multiply


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random_motion(
    N: int,
    J: int = 5,
    M: int = 4,
    degree: int = 3,
    parts: str = "blend path window",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    clocks: bool = False,
) -> Motion:
    """Random numbers in the named parts; a fifth of the slots is empty. `clocks`: a time for every Gaussian."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    real = torch.nn.functional.normalize(normal(J, 4), dim=1)
    dual = 0.5 * multiply(torch.cat([torch.zeros(J, 1, dtype=dtype), normal(J, 3)], 1), real)
    slots = torch.randint(J, (N, M), generator=g, dtype=torch.int32)
    motion = Motion(
        t=normal(N) if clocks else normal(1)[0],
        means=normal(N, 3),
        quats=normal(N, 4),
        logit_opacities=normal(N),
        dual_quats=torch.cat([real, dual], 1),
        slots=torch.where(torch.rand(N, M, generator=g) < 0.2, -1, slots),
        slot_logits=normal(N, M),
        coefficients=normal(N, degree, 3),
        t_ref=normal(N),
        t_on=normal(N) - 1,
        t_off=normal(N) + 1,
        log_softness=normal(N) - 1,
    )
    groups = {
        "blend": ("dual_quats", "slots", "slot_logits"),
        "path": ("coefficients", "t_ref"),
        "window": ("t_on", "t_off", "log_softness"),
    }
    return replace(motion, **{name: None for part, names in groups.items() if part not in parts for name in names})


def leaves_of(motion: Motion) -> tuple[Motion, dict[str, Tensor]]:
    values = {field.name: getattr(motion, field.name) for field in fields(motion)}
    leaves = {n: x.detach().clone().requires_grad_() for n, x in values.items() if x is not None and n != "slots"}
    return replace(motion, **leaves), leaves


def results(motion: Motion, backend: str) -> dict[str, Tensor]:
    """The three outputs, and the gradients of a random linear function of them."""
    motion, leaves = leaves_of(motion)
    outputs = dict(zip(("means_t", "quats_t", "logits_t"), move_gaussians(motion, backend), strict=True))
    g = torch.Generator().manual_seed(1)
    upstream = [torch.randn(x.shape, generator=g, dtype=torch.float64).to(x) for x in outputs.values()]
    grads = torch.autograd.grad(list(outputs.values()), list(leaves.values()), upstream, allow_unused=True)
    zeros = {n: torch.zeros_like(x) if v is None else v for (n, x), v in zip(leaves.items(), grads, strict=True)}
    return {n: x.detach() for n, x in outputs.items()} | zeros
