"""A dynamic scene as data: rigged Gaussians. What they do at a time is in `scene4d.motion`; edits never touch them.

N Gaussians, S spherical-harmonics coefficients, P polynomial coefficients, M handle slots per Gaussian, T times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor

from renderers import Gaussians
from scene4d import motion
from scene4d.rig import Rig
from scene4d.scene_checks import check_structure, check_values


@dataclass(frozen=True)
class Scene4D:
    """Gaussians that follow handles, plus a polynomial, while a window lasts. Raw parameters.

        x_i(t) = D_i(t) (mu_i + sum_p v_ip (t - t_ref_i)^p),    q_i(t) = rot(D_i(t)) q_i
        o_i(t) = S(logit_opacity_i) S((t - t_on_i) / tau_i) S((t_off_i - t) / tau_i)

    D_i is the dual-quaternion blend of the poses of the handles that Gaussian i follows (`renderers.motion`), the
    identity if it follows none. The parts from `rig` on are optional, together where they belong together. A Gaussian
    follows only handles of its own instance. Construction checks shapes, dtypes, devices and ids; `validate` also
    checks values. Both raise ValueError.
    """

    means: Tensor  # [N, 3] canonical, scene units
    quats: Tensor  # [N, 4] wxyz, any length; a zero quaternion is the identity rotation
    log_scales: Tensor  # [N, 3] log of the standard deviation along the local axes
    logit_opacities: Tensor  # [N] inside the window
    sh: Tensor  # [N, S, 3] colour = max(SH(direction) + 0.5, 0); the direction is the world's: SH do not turn
    labels: Tensor  # [N] int32 class, 0 = none
    instances: Tensor  # [N] int32, 0 = background, 1 and up = things that can be edited
    rig: Rig | None = None
    handle_ids: Tensor | None = None  # [N, M] int32, M <= 4, -1 = empty slot
    handle_logits: Tensor | None = None  # [N, M] weights are their softmax over the slots in use
    residuals: Tensor | None = None  # [N, P, 3] P in {0, 1, 3}: v_p in scene units / s^p
    t_ref: Tensor | None = (
        None  # [N] seconds: where the polynomial is 0. Not tied to the window: trimming moves nothing
    )
    t_on: Tensor | None = None  # [N] seconds, -inf = always been there
    t_off: Tensor | None = None  # [N] seconds, inf = never goes
    log_softness: Tensor | None = None  # [N] log of tau in seconds, -20 to 20

    def __post_init__(self) -> None:
        check_structure(self)

    def __len__(self) -> int:
        return self.means.shape[0]

    @cached_property
    def instance_count(self) -> int:
        """One more than the largest instance id."""
        ids = [
            x for x in (self.instances, None if self.rig is None else self.rig.instances) if x is not None and len(x)
        ]
        return 1 + max((int(x.max()) for x in ids), default=-1)

    def validate(self) -> None:
        """Raise ValueError on a value that no scene may hold: not finite, out of range, times out of order."""
        check_values(self)

    def at(self, t: motion.Time) -> Gaussians:
        """The scene at t seconds, differentiable to every parameter; t may also be [I], a time per instance.

        Gaussians outside their window stay, with very negative logit_opacities: renderers do not draw them.
        """
        means, quats, logit_opacities = motion.evaluate(self, t)
        return Gaussians(means, quats, self.log_scales, logit_opacities, sh=self.sh)

    def velocity(self, t: motion.Time) -> Tensor:
        """d means / dt [N, 3] in scene units per second, exact; see `motion.velocities`."""
        return motion.velocities(self, t)

    def tracks(self, ids: Tensor | Sequence[int], times: Sequence[float] | Tensor) -> Tensor:
        """Centres of the Gaussians `ids` [n] at `times` [T]: [T, n, 3], whether their windows last or not."""
        picked = torch.as_tensor(ids, device=self.means.device, dtype=torch.int64)
        return motion.stack_positions(self.subset(picked), times)

    def bake(self, times: Sequence[float] | Tensor) -> Baked:
        """Every Gaussian at every one of `times`, without rig."""
        frames = [self.at(t) for t in times]
        if not frames:
            raise ValueError("times must not be empty")
        return Baked(
            times=torch.as_tensor(times).to(self.means),
            means=torch.stack([frame.means for frame in frames]),
            quats=torch.stack([frame.quats for frame in frames]),
            logit_opacities=torch.stack([frame.logit_opacities for frame in frames]),
            log_scales=self.log_scales,
            sh=self.sh,
        )

    def subset(self, keep: Tensor) -> Scene4D:
        """The Gaussians where `keep` [N] is True, or those with the indices `keep` [n]. The rig stays whole.

        `scene4d.scene_tools.without_unused_handles` drops what nobody follows any more.
        """
        if keep.dtype == torch.bool:
            if keep.shape != (len(self),):
                raise ValueError(f"keep must have shape [{len(self)}], got {list(keep.shape)}")
            keep = keep.nonzero()[:, 0]
        elif keep.dtype not in (torch.int32, torch.int64) or keep.ndim != 1:
            raise ValueError(f"keep must be a bool or integer vector, got {keep.dtype} {list(keep.shape)}")
        elif keep.numel() and not (0 <= int(keep.min()) and int(keep.max()) < len(self)):
            raise ValueError(f"keep must be from 0 to {len(self) - 1}, got {int(keep.min())} to {int(keep.max())}")
        keep = keep.to(self.means.device)
        return replace(self, **{name: x.index_select(0, keep) for name, x in gaussian_tensors(self).items()})

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Scene4D:
        """A copy on `device`, floating tensors in `dtype`."""
        moved = {name: _to(x, device, dtype) for name, x in gaussian_tensors(self).items()}
        rig = self.rig and replace(
            self.rig, **{f.name: _to(getattr(self.rig, f.name), device, dtype) for f in fields(self.rig)}
        )
        return replace(self, rig=rig, **moved)


@dataclass(frozen=True)
class Baked:
    """A scene sampled at T times."""

    times: Tensor  # [T] seconds
    means: Tensor  # [T, N, 3]
    quats: Tensor  # [T, N, 4]
    logit_opacities: Tensor  # [T, N]
    log_scales: Tensor  # [N, 3]
    sh: Tensor  # [N, S, 3]

    def __len__(self) -> int:
        return self.times.shape[0]

    def frame(self, k: int) -> Gaussians:
        return Gaussians(self.means[k], self.quats[k], self.log_scales, self.logit_opacities[k], sh=self.sh)


def gaussian_tensors(scene: Scene4D) -> dict[str, Tensor]:
    """What there is once per Gaussian, in the order of the fields."""
    values = ((field.name, getattr(scene, field.name)) for field in fields(scene))
    return {name: value for name, value in values if isinstance(value, Tensor)}


def static_scene(gaussians: Gaussians) -> Scene4D:
    """A scene that does not move. Raises ValueError if colours are not given as SH."""
    if gaussians.sh is None:
        raise ValueError("gaussians must have sh, got colors")
    ids = torch.zeros(len(gaussians), dtype=torch.int32, device=gaussians.means.device)
    g = gaussians
    return Scene4D(g.means, g.quats, g.log_scales, g.logit_opacities, gaussians.sh, labels=ids, instances=ids.clone())


def _to(x: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    return x.to(device=device, dtype=dtype if x.is_floating_point() else None)
