"""gsplat's own densification strategy, run on CPU tensors by the C++ backend."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from renderers import Cameras, Gaussians, RasterOptions, rasterize

SIZE = (96, 72)


def target_cameras() -> Cameras:
    poses = torch.eye(4).repeat(3, 1, 1)
    for c, angle in enumerate((-0.25, 0.0, 0.25)):
        poses[c, 0, 0] = poses[c, 2, 2] = math.cos(angle)
        poses[c, 0, 2], poses[c, 2, 0] = math.sin(angle), -math.sin(angle)
        poses[c, :3, 3] = -poses[c, :3, :3] @ torch.tensor([0.0, 0.0, 4.0]) + torch.tensor([0.0, 0.0, 4.0])
    K = torch.tensor([[90.0, 0, 48], [0, 90.0, 36], [0, 0, 1]]).repeat(3, 1, 1)
    return Cameras(poses, K, *SIZE)


def target_images(cameras: Cameras) -> Tensor:
    """A patch of 30 x 24 small coloured Gaussians: more detail than the 60 that the fit starts with can show."""
    y, x = torch.meshgrid(torch.linspace(-1.1, 1.1, 24), torch.linspace(-1.5, 1.5, 30), indexing="ij")
    means = torch.stack([x, y, 4 + 0.2 * torch.sin(3 * x)], -1).reshape(-1, 3)
    colors = 0.5 + 0.5 * torch.sin(torch.stack([4 * x + y, 5 * y - x, 3 * (x + y)], -1).reshape(-1, 3))
    n = len(means)
    shape = torch.full((n, 3), math.log(0.05))
    gaussians = Gaussians(means, torch.eye(4)[:1].expand(n, 4), shape, torch.full((n,), 3.0), colors=colors)
    return rasterize(gaussians, cameras).image


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(float(((a - b).detach() ** 2).mean()))


def test_gsplat_default_strategy_densifies_on_the_cpu_backend() -> None:
    from gsplat import DefaultStrategy

    torch.manual_seed(0)
    cameras = target_cameras()
    truth = target_images(cameras)
    rates = {"means": 4e-3, "scales": 2e-2, "quats": 4e-3, "opacities": 5e-2, "colors": 3e-2}
    values = {
        "means": torch.rand(60, 3) * torch.tensor([3.0, 2.2, 0.6]) + torch.tensor([-1.5, -1.1, 3.7]),
        "scales": torch.full((60, 3), math.log(0.1)),
        "quats": torch.randn(60, 4),
        "opacities": torch.full((60,), 0.0),
        "colors": torch.rand(60, 3),
    }
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(x) for k, x in values.items()})
    optimizers = {k: torch.optim.Adam([params[k]], lr=rate, eps=1e-15) for k, rate in rates.items()}
    strategy = DefaultStrategy(
        refine_start_iter=40, refine_stop_iter=450, refine_every=30, reset_every=10_000, grow_grad2d=3e-4, verbose=False
    )
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=2.0)
    scores = []
    for step in range(900):
        gaussians = Gaussians(
            params["means"], params["quats"], params["scales"], params["opacities"], colors=params["colors"]
        )
        out = rasterize(gaussians, cameras, options=RasterOptions(eps2d=0.3))
        info = {
            "means2d": out.screen.means2d,
            "radii": out.screen.radii,
            "width": SIZE[0],
            "height": SIZE[1],
            "n_cameras": len(cameras),
            "gaussian_ids": None,
        }
        strategy.step_pre_backward(params, optimizers, state, step, info)
        ((out.image - truth) ** 2).mean().backward()
        scores.append(psnr(out.image, truth))
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        strategy.step_post_backward(params, optimizers, state, step, info, packed=False)
    assert scores[0] < 20
    assert len(params["means"]) > 2 * 60
    assert max(scores[-20:]) > 35
