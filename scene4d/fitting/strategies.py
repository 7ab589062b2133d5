"""Densification as in 3DGS (Kerbl et al. 2023, section 5.2): gsplat's `DefaultStrategy`, given what it wants to see.

It calls parameters by other names, resizes every tensor of its state along with them (so ids travel there), draws
from the global random numbers and knows no cap. Opacities are never reset: that hides what is seen only for a short
time, and gsplat 1.5.3 does not do it either (`step % reset_every == 0 & step > 0` is always false).

N Gaussians, C cameras, H W pixels.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from renderers import Rendering
from scene4d.fitting.model import RATES, Model

GSPLAT_NAMES = {"log_scales": "scales", "logit_opacities": "opacities"}  # the other parameters have the same names
GROW_GRADIENT = 2e-4  # per pixel of a picture that is 2 wide and 2 high (3DGS)
SMALL = 0.01  # of the scene's size: larger Gaussians are split, smaller ones doubled
TRANSPARENT = 0.005  # opacity below which a Gaussian is removed
GATHER, REFINE = 0, 1  # the two steps that the strategy is told of; when they are due is the fit's business


@dataclass(frozen=True, eq=False)
class Seen:
    """What the strategy wants to know of a rendering."""

    means2d: Tensor  # [C, N, 2] with .grad after backward
    radii: Tensor  # [C, N, 2] 0 = not drawn, outside its window for example
    width: int
    height: int

    def info(self) -> dict[str, Any]:
        shape = {"width": self.width, "height": self.height, "n_cameras": len(self.means2d)}
        return {"means2d": self.means2d, "radii": self.radii, "gaussian_ids": None, **shape}


class DefaultDensification:
    """The strategy and what it has measured since the last refinement.

    Each step: `before_backward`, `backward()`, the optimisers, `after_backward`; now and then `refine`.
    """

    def __init__(self, size: float) -> None:
        """`size` of the scene in scene units. Raises ImportError: gsplat is not there."""
        if not size > 0:
            raise ValueError(f"size must be positive, got {size}")
        try:
            from gsplat.strategy import DefaultStrategy
        except ImportError as e:
            raise ImportError("densification 'default' needs gsplat: pip install 'scene4d[gpu]'") from e
        self._strategy = DefaultStrategy(
            prune_opa=TRANSPARENT,
            grow_scale3d=SMALL,
            refine_start_iter=GATHER,
            refine_stop_iter=REFINE + 1,
            refine_every=1,
            reset_every=sys.maxsize,
        )
        self._measured: dict[str, Any] = self._strategy.initialize_state(scene_scale=size)
        self._seen: Seen | None = None

    def before_backward(self, rendering: Rendering) -> None:
        """Remember where Gaussians were drawn. `rendering` must be in the graph of the loss."""
        screen, (height, width) = rendering.screen, rendering.image.shape[1:3]
        screen.means2d.retain_grad()
        self._seen = Seen(screen.means2d, screen.radii, width, height)

    def after_backward(self, model: Model) -> None:
        """Add up the gradients of the positions on the screen, over the views in which a Gaussian was drawn."""
        if self._seen is not None:
            self._drive(model, self._seen, GATHER)
        self._seen = None

    def refine(self, model: Model, cap: int, generator: torch.Generator) -> bool:
        """Double, split and remove Gaussians of the model in place; there are never more than `cap` by it.

        Where all that want to grow would be too many, those with the largest gradients do. Returns whether Gaussians
        have changed: what anyone holds for each of them is void then. The new ones have no optimiser moments.
        """
        if self._measured["grad2d"] is None:
            return False
        self._strategy.grow_grad2d = self._threshold(cap - len(model))
        before = model.params["means"]
        nothing = torch.zeros(1, len(model), 2, device=before.device)
        blind = nothing.clone().requires_grad_()
        blind.grad = nothing
        devices = [before.device] if before.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            self._drive(model, Seen(blind, nothing, 1, 1), REFINE)
        return model.params["means"] is not before

    def _threshold(self, room: int) -> float:
        """The gradient that at most `room` Gaussians exceed: each of them becomes two."""
        if room <= 0:
            return torch.inf
        mean = self._measured["grad2d"] / self._measured["count"].clamp_min(1)
        if room >= len(mean):
            return GROW_GRADIENT
        return max(GROW_GRADIENT, float(mean.topk(room + 1).values[-1]))

    def _drive(self, model: Model, seen: Seen, step: int) -> None:
        params: dict[str, Any] = {GSPLAT_NAMES.get(name, name): x for name, x in model.params.items()}
        optimizers: dict[str, Any] = {
            GSPLAT_NAMES.get(name, name): x for name, x in model.optimizers.items() if name in RATES
        }
        state = {**self._measured, **model.ids}
        self._strategy.step_post_backward(params, optimizers, state, step, seen.info(), packed=False)
        model.ids = {name: state.pop(name) for name in model.ids}
        self._measured = state
        model.params = {name: params[GSPLAT_NAMES.get(name, name)] for name in model.params}

    def state(self) -> dict[str, Tensor | None]:
        """What a checkpoint needs: sums over the views since the last refinement, [N] each, or None."""
        return {name: self._measured[name] for name in ("grad2d", "count")}

    def restore(self, state: dict[str, Tensor | None], device: torch.device) -> None:
        """Go on from `state` of an earlier one."""
        moved = {name: None if x is None else x.clone().to(device) for name, x in state.items()}
        self._measured = {**self._measured, **moved}
        self._seen = None
