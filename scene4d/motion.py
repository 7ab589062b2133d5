"""Where handles and Gaussians are at a time. Closed form in t; differentiable to every parameter and to t.

J handles with L knots in all, N Gaussians, I instances, T times.

A time is a number, a tensor [], or a tensor [I] that gives every instance its own clock (index = instance id), which
is what retiming single objects needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from renderers.motion import Motion, move_gaussians
from renderers.motion_torch import velocity
from renderers.poses import Poses, pose_transforms
from renderers.quaternions import conjugate, multiply
from scene4d.rig import PER_KNOT, Rig

if TYPE_CHECKING:
    from scene4d.scene import Scene4D

Time = float | Tensor


def evaluate(scene: Scene4D, t: Time, backend: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Means [N, 3], quats [N, 4] and logit_opacities [N] at t, by `renderers.motion.move_gaussians`."""
    time = as_time(t, scene)
    return move_gaussians(motion_inputs(scene, time, _transforms(scene, time, backend)), backend)


def positions(scene: Scene4D, t: Time, backend: str = "auto") -> Tensor:
    """Means [N, 3] at t, present or not."""
    time = as_time(t, scene)
    return move_gaussians(motion_inputs(scene, time, _transforms(scene, time, backend), window=False), backend)[0]


def velocities(scene: Scene4D, t: Time) -> Tensor:
    """d means / dt [N, 3] in scene units per second: exact, and differentiable to every parameter.

    At a knot of a linear handle it is the derivative to the right (at the last one, to the left). With a time per
    instance, all clocks run at rate 1.
    """
    time = as_time(t, scene)
    if scene.rig is None or not len(scene.rig):
        return velocity(motion_inputs(scene, time, None, window=False), None)
    poses, rates = _pose_rates(scene.rig, _of_instance(time, scene.rig.instances))
    return velocity(motion_inputs(scene, time, poses, window=False), rates)


def _pose_rates(rig: Rig, t: Tensor) -> tuple[Tensor, Tensor]:
    """Dual quaternions of the handles and their derivatives by t, [J, 8] each.

    The derivative is linear in a weight w on the outputs: g(w) = d (w . poses) / dt, so it is the gradient of g.
    """
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        t = t if t.requires_grad else t.clone().requires_grad_()
        poses = pose_transforms(pose_inputs(rig, t), backend="torch")
        w = torch.zeros_like(poses, requires_grad=True)
        (g,) = torch.autograd.grad(poses, t, w, create_graph=True)
        (rates,) = torch.autograd.grad(g.sum(), w, create_graph=True)
    return (poses, rates) if wanted else (poses.detach(), rates.detach())


def stack_positions(scene: Scene4D, times: Sequence[float] | Tensor) -> Tensor:
    """Means at each of the times, [T, N, 3]."""
    rows = [positions(scene, t) for t in times]
    return torch.stack(rows) if rows else scene.means.new_zeros(0, *scene.means.shape)


def as_time(t: Time, scene: Scene4D) -> Tensor:
    """t as a tensor [] or [I] like the scene's. Raises ValueError if it is not finite, or has too few instances."""
    time = torch.as_tensor(t, dtype=scene.means.dtype, device=scene.means.device)
    if time.ndim > 1:
        raise ValueError(f"t must be a number or one time per instance, got shape {list(time.shape)}")
    if not (bool(torch.isfinite(time).all()) if isinstance(t, Tensor) else math.isfinite(t)):
        raise ValueError(f"t must be finite, got {time.tolist()}")
    if time.ndim and scene.instance_count > time.shape[0]:
        raise ValueError(f"t must hold a time for each of the {scene.instance_count} instances, got {time.shape[0]}")
    return time


def _of_instance(t: Tensor, instances: Tensor) -> Tensor:
    return t.index_select(0, instances) if t.ndim else t


def _transforms(scene: Scene4D, t: Tensor, backend: str) -> Tensor | None:
    rig = scene.rig
    return None if rig is None else pose_transforms(pose_inputs(rig, _of_instance(t, rig.instances)), backend)


def handle_poses(rig: Rig, t: Time, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """T_world_rest of every handle at t (here a number, [], or [J]): unit quats [J, 4] and translations [J, 3]."""
    time = torch.as_tensor(t, dtype=rig.centers.dtype, device=rig.centers.device)
    real, dual = pose_transforms(pose_inputs(rig, time), backend).split(4, 1)
    return real, 2 * multiply(dual, conjugate(real))[:, 1:]


def pose_inputs(rig: Rig, t: Tensor) -> Poses:
    """The rig as `renderers.poses.pose_transforms` takes it; t is [] or [J]."""
    names = ("centers", "parents", "interpolations", "first_knots", "knot_counts", *PER_KNOT)
    return Poses(t=t, **{name: getattr(rig, name) for name in names})


def motion_inputs(scene: Scene4D, t: Tensor, transforms: Tensor | None, window: bool = True) -> Motion:
    """The scene as `renderers.motion.move_gaussians` takes it; t is [] or [I], transforms are the handles' [J, 8]."""
    return Motion(
        t=_of_instance(t, scene.instances),
        means=scene.means,
        quats=scene.quats,
        logit_opacities=scene.logit_opacities,
        dual_quats=transforms,
        slots=None if transforms is None else scene.handle_ids,
        slot_logits=None if transforms is None else scene.handle_logits,
        coefficients=scene.residuals,
        t_ref=scene.t_ref,
        t_on=scene.t_on if window else None,
        t_off=scene.t_off if window else None,
        log_softness=scene.log_softness if window else None,
    )
