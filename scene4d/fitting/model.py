"""What a fit changes: the parameters of a scene, one optimiser each, and how they go into a checkpoint.

N Gaussians, M handle slots, S SH coefficients, L knots, C cameras.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from scene4d.fitting.settings import FitSettings
from scene4d.rig import Rig
from scene4d.scene import Scene4D

# field of Scene4D -> field of FitSettings; in this order
RATES = {
    "means": "lr_means",
    "quats": "lr_quats",
    "log_scales": "lr_log_scales",
    "logit_opacities": "lr_logit_opacities",
    "sh": "lr_sh",
    "handle_logits": "lr_handle_logits",
    "t_on": "lr_windows",
    "t_off": "lr_windows",
}
KNOTS = ("knot_quats", "knot_translations")
IDS = ("labels", "instances", "handle_ids", "t_ref", "residuals", "log_softness")
TURNS = 3.0  # radians of a handle's turn for its shift by the scene's size
FEW_VISITS = (0.9, 0.99)  # Adam's memory, in looks at a knot: of each there are some hundred
EPS = 1e-15  # gsplat's and 3DGS's: gradients of means are tiny


@dataclass(eq=False)
class Model:
    """Leaf tensors in `params`, what belongs to each Gaussian but is not trained in `ids`; changed in place."""

    params: dict[str, Tensor]
    ids: dict[str, Tensor]
    rig: Rig | None
    exposure: Tensor  # [C, 3, 4] shown rgb = e[:, :3] rgb + e[:, 3]
    size: float  # of the scene, in scene units
    duration: float = 1.0  # seconds of the capture; of use with windows
    optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.params["means"])

    def scene(self) -> Scene4D:
        """The scene of the present parameters, in their graph."""
        return Scene4D(rig=self.rig, **self.params, **self.ids)

    def finished(self) -> Scene4D:
        """A copy without gradients: unit quaternions, no slots where there is no rig."""
        scene = self.scene()
        rig = scene.rig and replace(
            scene.rig, **{f.name: getattr(scene.rig, f.name).detach().clone().cpu() for f in fields(scene.rig)}
        )
        tensors = {name: x.detach().clone().cpu() for name, x in {**self.params, **self.ids}.items()}
        if "t_on" in tensors:
            tensors["t_off"] = torch.maximum(tensors["t_off"], tensors["t_on"])
        tensors["quats"] = torch.nn.functional.normalize(tensors["quats"], dim=1)
        return Scene4D(rig=rig, **tensors)


def make_model(scene: Scene4D, cameras: int, size: float, settings: FitSettings, device: torch.device) -> Model:
    """Parameters and optimisers that start at `scene`."""
    params = {}
    for name in RATES:
        value = getattr(scene, name)
        if value is not None:
            params[name] = value.detach().clone().to(device).requires_grad_()
    ids = {name: getattr(scene, name).to(device) for name in IDS if getattr(scene, name) is not None}
    rig = scene.rig
    if rig is not None:
        moved = {f.name: getattr(rig, f.name).to(device) for f in fields(rig)}
        for name in KNOTS:
            moved[name] = moved[name].detach().clone().requires_grad_()
        rig = Rig(**moved)
    exposure = torch.eye(3, 4).repeat(cameras, 1, 1).to(device).requires_grad_()
    duration = 1.0 if scene.t_on is None or scene.t_off is None else float((scene.t_off - scene.t_on).max())
    model = Model(params, ids, rig, exposure, size, duration)
    model.optimizers = make_optimizers(model, settings)
    return model


def make_optimizers(model: Model, settings: FitSettings) -> dict[str, torch.optim.Optimizer]:
    rates = {name: getattr(settings, RATES[name]) for name in model.params}
    groups = {name: [{"params": [x], "lr": rates[name]}] for name, x in model.params.items()}
    if settings.exposure:
        groups["exposure"] = [{"params": [model.exposure], "lr": settings.lr_exposure}]
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.Adam(group, eps=EPS, fused=True) for name, group in groups.items()
    }
    if model.rig is not None:  # a step moves only knots near its time: see `keep_near_knots`
        for name in KNOTS:
            knots = getattr(model.rig, name)
            optimizers[name] = torch.optim.SparseAdam([knots], lr=settings.lr_knots, betas=FEW_VISITS, eps=EPS)
    return optimizers


def keep_near_knots(model: Model, t: float) -> None:
    """Keep the gradients of the four knots around t seconds, which a pose there depends on; for lazy Adam.

    With Adam a knot would go on after its frame was seen, the farther the rarer that is.
    """
    rig = model.rig
    if rig is None or rig.knot_quats.grad is None:
        return
    count = int(rig.knot_counts[0])  # a fit gives all handles the same knots
    after = int(torch.searchsorted(rig.knot_times[:count].detach(), t))
    near = torch.arange(max(0, after - 2), min(count, after + 2), device=rig.knot_times.device)
    rows = (torch.arange(len(rig), device=near.device)[:, None] * count + near).reshape(-1)
    for name in KNOTS:
        knots = getattr(rig, name)
        if knots.grad is not None:
            knots.grad = torch.sparse_coo_tensor(
                rows[None], knots.grad[rows], knots.shape, is_coalesced=True, check_invariants=False
            )


def set_rates(model: Model, settings: FitSettings, done: float, caution: float) -> None:
    """Learning rates at the share `done` of the steps; `caution` shrinks them all after a divergence."""
    fall = _fall(done, settings)
    # while frames join, the knots of each have the same chance
    marched = settings.march if model.rig is not None else 0.0
    knots = settings.lr_knots * _fall(max(0.0, done - marched) / max(1e-9, 1 - marched), settings)
    rates = {
        "means": settings.lr_means * model.size * fall,
        "knot_translations": knots * model.size,
        "knot_quats": TURNS * knots,
        "exposure": settings.lr_exposure * fall,
        "t_on": settings.lr_windows * model.duration * fall,
        "t_off": settings.lr_windows * model.duration * fall,
    }
    late = min(1.0, 2.0 * (1.0 - done) + 0.1)  # the others rest a little at the end
    for name, optimizer in model.optimizers.items():
        rate = rates.get(name)
        if rate is None:
            rate = getattr(settings, RATES[name]) * late
        optimizer.param_groups[0]["lr"] = rate * caution


def _fall(done: float, settings: FitSettings) -> float:
    return math.exp(done * math.log(settings.lr_last)) if settings.lr_last > 0 else 1.0 - done


def gather(model: Model, rows: Tensor, fresh: Tensor) -> None:
    """Make the Gaussians `rows` [n] the model's; those marked `fresh` [n] start with empty optimiser moments."""
    for name, old in list(model.params.items()):
        new = old.detach()[rows].clone().requires_grad_()
        optimizer = model.optimizers[name]
        state = optimizer.state.pop(old, {})
        optimizer.param_groups[0]["params"] = [new]
        for key in ("exp_avg", "exp_avg_sq"):
            if key in state:
                moments = state[key][rows].clone()
                moments[fresh] = 0
                state[key] = moments
        if state:
            optimizer.state[new] = state
        model.params[name] = new
    model.ids = {name: x[rows].contiguous() for name, x in model.ids.items()}


def model_state(model: Model) -> dict[str, Any]:
    """Everything that a checkpoint needs besides the settings."""
    rig = {} if model.rig is None else {f.name: getattr(model.rig, f.name).detach() for f in fields(model.rig)}
    return {
        "params": {name: x.detach() for name, x in model.params.items()},
        "ids": dict(model.ids),
        "rig": rig,
        "exposure": model.exposure.detach(),
        "size": model.size,
        "duration": model.duration,
        "optimizers": {name: optimizer.state_dict() for name, optimizer in model.optimizers.items()},
    }


def model_from_state(state: dict[str, Any], settings: FitSettings, device: torch.device) -> Model:
    """The inverse of `model_state`."""
    params = {name: x.clone().to(device).requires_grad_() for name, x in state["params"].items()}
    rig = None
    if state["rig"]:
        parts = {name: x.clone().to(device) for name, x in state["rig"].items()}
        for name in KNOTS:
            parts[name].requires_grad_()
        rig = Rig(**parts)
    ids = {name: x.clone().to(device) for name, x in state["ids"].items()}
    model = Model(
        params, ids, rig, state["exposure"].clone().to(device).requires_grad_(), state["size"], state["duration"]
    )
    model.optimizers = make_optimizers(model, settings)
    for name, optimizer in model.optimizers.items():
        optimizer.load_state_dict(copy.deepcopy(state["optimizers"][name]))  # it would share the moments
    return model
