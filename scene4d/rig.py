"""The handles that move a scene.

J handles with L knots in all. A handle's pose is rest-relative: it takes canonical coordinates to where the handle has
carried them. Knots are relative to the parent's motion, and turn about the handle's centre:

    T_world_rest = T_world_parent @ T_parent_rest,    T_parent_rest x = R (x - center) + center + translation

where T_world_parent is the parent's T_world_rest, or the identity. A knot (1 0 0 0), (0 0 0) is at rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from renderers.motion import check_tensor
from renderers.poses import CUBIC, LINEAR


@dataclass(frozen=True)
class Rig:
    """Handles and their knots, those of handle 0 first, then those of handle 1, ... Raises as `check_rig`."""

    centers: Tensor  # [J, 3] canonical, scene units: where the handle is at rest, and what its knots turn about
    parents: Tensor  # [J] int32 index of an earlier handle of the same instance; -1 = none
    instances: Tensor  # [J] int32, 0 and up
    interpolations: Tensor  # [J] int32: LINEAR (slerp and lerp) or CUBIC (C1 through the knots)
    knot_counts: Tensor  # [J] int32, at least 1
    knot_times: (
        Tensor  # [L] seconds, increasing within a handle; before the first and after the last knot the pose rests
    )
    knot_quats: Tensor  # [L, 4] wxyz, any length; the sign does not matter
    knot_translations: Tensor  # [L, 3] scene units

    def __post_init__(self) -> None:
        check_rig(self)

    def __len__(self) -> int:
        return self.centers.shape[0]

    @cached_property
    def first_knots(self) -> Tensor:
        """Index [J] int64 of each handle's first knot."""
        return self.knot_counts.cumsum(0) - self.knot_counts


INTEGERS = ("parents", "instances", "interpolations", "knot_counts")
PER_KNOT = ("knot_times", "knot_quats", "knot_translations")


def check_rig(rig: Rig) -> None:
    """Raise ValueError on a wrong shape, dtype, device, index or tree. Values of knots: see `check_knots`."""
    centers = rig.centers
    if not isinstance(centers, Tensor) or centers.dtype not in (torch.float32, torch.float64) or centers.ndim != 2:
        raise ValueError(f"centers must be a float32 or float64 tensor [J, 3], got {centers!r:.60}")
    J, L = (
        centers.shape[0],
        rig.knot_times.shape[0] if isinstance(rig.knot_times, Tensor) and rig.knot_times.ndim else 0,
    )
    check_tensor(centers, "centers", (J, 3), centers.dtype, centers.device)
    for name in INTEGERS:
        check_tensor(getattr(rig, name), name, (J,), torch.int32, centers.device)
    for name, shape in (("knot_times", (L,)), ("knot_quats", (L, 4)), ("knot_translations", (L, 3))):
        check_tensor(getattr(rig, name), name, shape, centers.dtype, centers.device)
    order = torch.arange(J, device=centers.device)
    parents = rig.parents.long()
    in_order = (parents >= -1) & (parents < order)
    own = (parents < 0) | (rig.instances[parents.clamp(0, max(J - 1, 0))] == rig.instances)
    raise_first(
        (~in_order, "parents", "be -1 or an earlier handle (a tree, parents first)", rig.parents),
        (~own, "parents", "be handles of the same instance", rig.parents),
        (rig.instances < 0, "instances", "not be negative", rig.instances),
        (
            (rig.interpolations < LINEAR) | (rig.interpolations > CUBIC),
            "interpolations",
            "be 0 or 1",
            rig.interpolations,
        ),
        (rig.knot_counts < 1, "knot_counts", "be at least 1", rig.knot_counts),
        (rig.knot_counts.sum() != L, "knot_counts", f"add up to the {L} knots", rig.knot_counts),
    )


def check_knots(rig: Rig) -> None:
    """Raise ValueError on knots or centres that are not finite, and on times that do not increase within a handle."""
    for name in ("centers", *PER_KNOT):
        tensor = getattr(rig, name).detach()
        raise_first((~torch.isfinite(tensor), name, "be finite", tensor))
    steps = rig.knot_times.detach().diff(prepend=rig.knot_times.detach()[:1])
    starts = torch.zeros_like(steps, dtype=torch.bool).index_fill(0, rig.first_knots, True)
    raise_first(((steps <= 0) & ~starts, "knot_times", "increase within a handle", rig.knot_times))


def raise_first(*rules: tuple[Tensor, str, str, Tensor]) -> None:
    """Raise ValueError for the first (broken, name, rule, values) with something broken, naming the first such value.

    The flags are read in one go: on a GPU each read waits for the device.
    """
    flags = torch.stack([broken.any() for broken, *_ in rules]).tolist()
    for flag, (broken, name, rule, values) in zip(flags, rules, strict=True):
        if flag:
            place = tuple(torch.nonzero(broken)[0].tolist())
            got = values[place].tolist() if place else values.tolist()
            raise ValueError(
                f"{name} must {rule}, got {got} at {list(place)}" if place else f"{name} must {rule}, got {got}"
            )
