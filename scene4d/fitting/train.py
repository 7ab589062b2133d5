"""The steps of a fit. Chance is drawn from (seed, step), so a resumed fit takes the very steps that a whole one takes.

N Gaussians, H W pixels.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from renderers import RasterOptions, Rendering, rasterize
from renderers.photometric import photometric_loss
from scene4d.captures import View
from scene4d.errors import EXIT_DIVERGED
from scene4d.fitting.close import MovingPart, moving_part, with_what_hides_it
from scene4d.fitting.densify import add_noise, relocate
from scene4d.fitting.footage import Footage, Shot
from scene4d.fitting.losses import (
    HandleGraph,
    depth_loss,
    exposure_prior,
    mask_loss,
    rigidity,
    skinning_entropy,
    smoothness,
    window_loss,
)
from scene4d.fitting.march import NEWEST, Window, carry_on, knot_times, window_at
from scene4d.fitting.model import Model, keep_near_knots, model_from_state, model_state, set_rates
from scene4d.fitting.settings import FitSettings
from scene4d.fitting.strategies import DefaultDensification
from scene4d.fitting.track_loss import EVERY, TrackLoss
from scene4d.scene import Scene4D

REFINE_EVERY = 100  # steps
REFINE_FROM, REFINE_TO = 0.04, 0.75  # shares of the steps
FULL_EVERY = 4  # steps: the others look only at what moves, where that can be
SKINNING_EVERY = 8  # steps; it costs as much as a small picture
NOISE_EVERY = 4  # steps: variances add up
NOISE = 5e5  # of the learning rate of the means (3DGS-MCMC)
MOST_ROLLBACKS = 3
SMALLEST_SIDE = 64  # pixels: pictures are not shrunk below it
EXPOSURE_PRIOR = 0.05


class Diverged(RuntimeError):
    """The fit ran into numbers that are not finite, again and again."""

    exit_code = EXIT_DIVERGED


@dataclass(frozen=True, eq=False)
class Look:
    """A view as the present scene shows it."""

    view: View
    shot: Shot
    rendering: Rendering
    picture: Tensor  # [H, W, 3] as the camera shows it
    rows: Tensor | None  # [n] int64, the Gaussians that had a say in it; None = all
    probe: Tensor | None = None  # [N, 1] a feature; its gradient tells over what error each Gaussian was drawn


@dataclass(eq=False)
class Fit:
    """A fit under way."""

    footage: Footage
    settings: FitSettings
    model: Model
    graph: HandleGraph | None
    origin: float = 0.0  # seconds, where the march starts
    step: int = 0  # steps that are done
    caution: float = 1.0
    cap: int = 0
    rollbacks: int = 0
    need: Tensor | None = None  # [N] error that each Gaussian was drawn over since the last refinement
    strategy: DefaultDensification | None = None
    psnr: float = 0.0  # running mean
    _cameras: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._cameras = {name: i for i, name in enumerate(self.footage.capture.camera_names)}
        self.cap = self.cap or self.settings.max_gaussians
        if self.graph is not None:
            self.graph = HandleGraph(**{name: x.to(self.footage.device) for name, x in vars(self.graph).items()})
        self.tracks = TrackLoss(self.footage)
        self.forget()

    def forget(self) -> None:
        """Drop what was measured of each Gaussian; they have changed."""
        self.need = None
        default = self.settings.densification == "default"
        self.strategy = DefaultDensification(self.model.size) if default else None

    # -- what the steps look at

    def view(self, step: int) -> View:
        """Every view once in an order of chance, then again in another; while marching, views of the window."""
        if step < self.march_steps:
            return self.marching_view(step)
        views = self.footage.views
        round_, index = divmod(step, len(views))
        order = torch.randperm(len(views), generator=self.chance(round_, salt=1))
        return views[int(order[index])]

    @property
    def march_steps(self) -> int:
        return int(self.settings.march * self.settings.steps) if self.model.rig is not None else 0

    def window(self, step: int) -> Window:
        return window_at(self.model, self.origin, (step + 1) / max(1, self.march_steps))

    def marching_view(self, step: int) -> View:
        times, window, chance = knot_times(self.model), self.window(step), self.chance(step, salt=4)
        low, high = float(times[window.low]), float(times[window.high])
        gap = float(times[1] - times[0]) if len(times) > 1 else 0.0
        inside = [v for v in self.footage.views if low - 1e-6 <= v.time <= high + 1e-6] or list(self.footage.views)
        sides = (
            (window.low > 0, lambda v: v.time <= low + gap),
            (window.high < len(times) - 1, lambda v: v.time >= high - gap),
        )
        newest = [v for v in inside if any(grows and new(v) for grows, new in sides)]
        pool = newest if newest and float(torch.rand((), generator=chance)) < NEWEST else inside
        return pool[int(torch.randint(0, len(pool), (), generator=chance))]

    def march(self, step: int) -> None:
        """Carry the scene to the knots that join at this step."""
        if not 0 < step < self.march_steps or self.graph is None:
            return
        before, now = self.window(step - 1), self.window(step)
        if now.high > before.high:
            carry_on(self.footage, self.model, self.graph, before.high, now.high, self.chance(step, salt=5))
        if now.low < before.low:
            carry_on(self.footage, self.model, self.graph, before.low, now.low, self.chance(step, salt=6))

    def chance(self, step: int, salt: int = 0) -> torch.Generator:
        return torch.Generator().manual_seed((self.settings.seed * 1_000_003 + step) * 16 + salt)

    def shrink(self, step: int, view: View) -> int:
        done = step / self.settings.steps
        # frames that join may be far off: small pictures pull from farther away
        coarse = step < self.march_steps or done < self.settings.quarter
        wanted = 4 if coarse else 2 if done < self.settings.quarter + self.settings.half else 1
        while wanted > 1 and min(view.width, view.height) // wanted < SMALLEST_SIDE:
            wanted //= 2
        return wanted

    # -- one step

    def advance(self) -> dict[str, float]:
        """One step of all optimisers. Raises FloatingPointError where the loss is not finite."""
        settings, step = self.settings, self.step
        set_rates(self.model, settings, step / settings.steps, self.caution)
        self.march(step)
        looks = self.looks(step)
        losses = self.losses(looks)
        total = torch.stack(list(losses.values())).sum()
        value = float(total.detach())
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}")
        first = looks[0]
        if first.probe is not None and first.rendering.features is not None:
            error = (first.picture.detach() - first.shot.image).square().mean(-1)
            error = error if first.shot.weights is None else error * first.shot.weights
            total = total + (first.rendering.features[0, ..., -1] * error).sum()
        if self.strategy is not None:
            self.strategy.before_backward(first.rendering)
        total.backward()
        if first.probe is not None and first.probe.grad is not None:
            self.need = first.probe.grad[:, 0] if self.need is None else self.need + first.probe.grad[:, 0]
        keep_near_knots(self.model, first.view.time)
        for optimizer in self.model.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.strategy is not None:
            self.strategy.after_backward(self.model)
        self.refine(step)
        self.step += 1
        return self.scalars(losses, first)

    def looks(self, step: int) -> list[Look]:
        """What a step sees: one whole picture, or, three times out of four, what moves at one time in all cameras.

        Cameras that move show no background that could be put behind it: there a look at what moves is a part of one
        whole picture, once all frames have joined.
        """
        view, scene = self.view(step), self.model.scene()
        shrink = self.shrink(step, view)
        if step % FULL_EVERY == 0 or self.strategy is not None:
            return [self.whole_look(scene, view, self.footage.shot(view, shrink))]
        boxes = [(v, self.footage.moving_box(v)) for v in self.footage.at(view.frame)]
        shots = [
            (v, self.footage.shot(v, shrink, box)) for v, box in boxes if box and v.camera in self.footage.backdrops
        ]
        part = moving_part(scene, view.time) if shots else None
        if part is not None:
            return [self.close_look(scene, part, v, shot) for v, shot in shots]
        box = None if step < self.march_steps else self.footage.moving_box(view)
        return [self.whole_look(scene, view, self.footage.shot(view, shrink, box), close=box is not None)]

    def whole_look(self, scene: Scene4D, view: View, shot: Shot, close: bool = False) -> Look:
        """All Gaussians, with the share of what moves and the probe as feature channels."""
        features, probe = [], None
        if shot.instances is not None and self.settings.weight_mask > 0:
            features.append((scene.instances > 0).to(scene.means)[:, None])
        if self.settings.densification == "mcmc" and not close:
            probe = torch.zeros(len(self.model), 1, device=shot.image.device, requires_grad=True)
            features.append(probe)
        channels = torch.cat(features, 1) if features else None
        rendering = rasterize(scene.at(view.time), shot.camera, features=channels, options=self.options())
        # what was not drawn had no say in the picture
        rows = (rendering.screen.radii[0, :, 0] > 0).nonzero()[:, 0] if close else None
        return Look(view, shot, rendering, self.exposed(rendering, view.camera), rows, probe)

    def close_look(self, scene: Scene4D, part: MovingPart, view: View, shot: Shot) -> Look:
        """What moves, and what hides it, in front of the backdrop."""
        gaussians = with_what_hides_it(part, scene, shot.camera)
        moves = (torch.arange(len(gaussians), device=gaussians.means.device) < len(part.rows)).to(gaussians.means)
        rendering = rasterize(gaussians, shot.camera, features=moves[:, None], options=self.options())
        return Look(view, shot, rendering, self.exposed(rendering, view.camera, shot.backdrop), part.rows)

    def exposed(self, rendering: Rendering, camera: str, backdrop: Tensor | None = None) -> Tensor:
        """The picture [H, W, 3] that a camera shows; a backdrop is its picture already."""
        image, alpha = rendering.image[0], rendering.alpha[0, ..., None]
        if self.settings.exposure:
            matrix = self.exposures()[self._cameras[camera]]
            image = image @ matrix[:, :3].T + (matrix[:, 3] if backdrop is None else alpha * matrix[:, 3])
        return image if backdrop is None else image + (1 - alpha) * backdrop

    def exposures(self) -> Tensor:
        """Colour matrices [C, 3, 4] of the capture's cameras. Their mean over those in the fit leaves colours alone, so
        that a camera that was not in it can be shown without one."""
        trained = [self._cameras[name] for name in self.footage.camera_names]
        plain = torch.eye(3, 4, device=self.model.exposure.device)
        return self.model.exposure - self.model.exposure[trained].mean(0) + plain

    def losses(self, looks: Sequence[Look]) -> dict[str, Tensor]:
        """Weighted losses by name."""
        settings, model, first = self.settings, self.model, looks[0]
        parts = [self.picture_losses(look) for look in looks]
        found = {name: torch.stack([part[name] for part in parts if name in part]).mean() for name in parts[0]}
        opacities, scales = model.params["logit_opacities"], model.params["log_scales"]
        if first.rows is not None:
            opacities, scales = opacities[first.rows], scales[first.rows]
        found["opacity"] = settings.weight_opacity * opacities.sigmoid().sum() / len(model)
        found["scale"] = settings.weight_scale * scales.exp().sum() / (3 * len(model) * model.size)
        if settings.exposure:
            found["exposure"] = EXPOSURE_PRIOR * exposure_prior(model.exposure)
        if model.rig is not None and self.graph is not None and len(self.graph.a):
            other = self.view(self.step + 1).time
            found["rigidity"] = settings.weight_rigidity * rigidity(model.rig, self.graph, first.view.time, other)
            found["smoothness"] = settings.weight_smoothness * smoothness(model.rig, model.size)
        if "t_on" in model.params:
            window = window_loss(model.params["t_on"], model.params["t_off"], model.duration)
            found["windows"] = settings.weight_windows * window
        if self.step % SKINNING_EVERY == 0 and settings.weight_skinning > 0 and "handle_logits" in model.params:
            entropy = skinning_entropy(model.params["handle_logits"], model.ids["handle_ids"])
            found["skinning"] = SKINNING_EVERY * settings.weight_skinning * (self.step / settings.steps) * entropy
        if (tracks := self.track_loss(first)) is not None:
            found["tracks"] = tracks
        return found

    def picture_losses(self, look: Look) -> dict[str, Tensor]:
        """Those of one look: colour, and masks and depth where it has them."""
        settings, shot, rendering = self.settings, look.shot, look.rendering
        found = {"rgb": photometric_loss(look.picture, shot.image, shot.weights, settings.weight_ssim)}
        if shot.instances is not None and settings.weight_mask > 0 and rendering.features is not None:
            moving = rendering.features[0, ..., 0]
            found["mask"] = self.mask_weight(look.view) * mask_loss(moving, shot.instances > 0, shot.weights)
        if shot.depth is not None and settings.weight_depth > 0:
            found["depth"] = settings.weight_depth * depth_loss(rendering.depth[0], rendering.alpha[0], shot.depth)
        return found

    def track_loss(self, look: Look) -> Tensor | None:
        """Weighted; None where it is not due. Flow shows the way at first; pictures are more exact in the end."""
        view = look.view
        weight = self.settings.weight_tracks * (1 - 2 * self.step / self.settings.steps) * EVERY
        if (
            weight <= 0 or self.step % EVERY or self.model.rig is None or look.rows is not None
        ):  # flow is of whole pictures
            return None
        other = self.tracks.neighbour(view, self.chance(self.step, salt=7))
        if other is None:
            return None
        shrink = self.shrink(self.step, view)
        return weight * self.tracks(self.model.scene(), look.shot, (view, other), shrink, self.options())

    def options(self) -> RasterOptions:
        return RasterOptions(threads=self.settings.threads or os.cpu_count())

    def mask_weight(self, view: View) -> float:
        """Masks that were found and not given help at first; in the end pictures know better."""
        found = view.key in self.footage.motion_masks
        return self.settings.weight_mask * (max(0.1, 1 - self.step / self.settings.steps) if found else 1.0)

    def refine(self, step: int) -> None:
        """Put Gaussians where they are needed, as the settings say and only in the middle of the fit."""
        settings = self.settings
        if settings.densification == "none" or not REFINE_FROM <= (step + 1) / settings.steps <= REFINE_TO:
            return
        due = (step + 1) % REFINE_EVERY == 0
        if self.strategy is not None:
            if due and self.strategy.refine(self.model, self.cap, self.chance(step, salt=3)):
                self.need = None
            return
        if step % NOISE_EVERY == 0:
            rate = self.model.optimizers["means"].param_groups[0]["lr"] * math.sqrt(NOISE_EVERY)
            add_noise(self.model, rate * NOISE / max(self.model.size, 1e-9), self.chance(step, salt=2))
        if due and self.need is not None:
            # small pictures need no more Gaussians than there are
            cap = min(self.cap, len(self.model)) if step < self.march_steps else self.cap
            relocate(self.model, cap, self.need, self.chance(step, salt=3))
            self.need = None

    def scalars(self, losses: dict[str, Tensor], look: Look) -> dict[str, float]:
        if look.rows is None:  # a whole picture
            weights = look.shot.weights
            square = (look.picture.detach() - look.shot.image).square().mean(-1)
            mse = square.mean() if weights is None else (square * weights).sum() / weights.sum().clamp_min(1)
            psnr = -10 * math.log10(max(float(mse), 1e-10))
            self.psnr = psnr if self.psnr == 0 else 0.98 * self.psnr + 0.02 * psnr
        found = {name: float(value.detach()) for name, value in losses.items()}
        return {"psnr": self.psnr, "gaussians": float(len(self.model)), **found}

    # -- checkpoints

    def state(self) -> dict[str, Any]:
        return {
            "model": model_state(self.model),
            "caution": self.caution,
            "cap": self.cap,
            "origin": self.origin,
            "rollbacks": self.rollbacks,
            "psnr": self.psnr,
            "need": self.need,
            "strategy": None if self.strategy is None else self.strategy.state(),
            "graph": None if self.graph is None else vars(self.graph),
        }

    def restore(self, step: int, state: dict[str, Any]) -> None:
        device = self.footage.device
        self.model = model_from_state(state["model"], self.settings, device)
        self.step, self.caution, self.cap = step, state["caution"], state["cap"]
        self.origin = state["origin"]
        self.rollbacks, self.psnr = state["rollbacks"], state["psnr"]
        self.forget()
        self.need = None if state["need"] is None else state["need"].to(device)
        if self.strategy is not None and state["strategy"] is not None:
            self.strategy.restore(state["strategy"], device)
        graph = state["graph"]
        self.graph = None if graph is None else HandleGraph(**{name: x.to(device) for name, x in graph.items()})

    def is_finite(self) -> bool:
        model = self.model
        tensors = [*model.params.values(), model.exposure]
        if model.rig is not None:
            tensors += [model.rig.knot_quats, model.rig.knot_translations]
        return all(bool(x.isfinite().all()) for x in tensors)
