"""Input checks of `Scene4D`: every message names the argument, the rule and what was got."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from renderers.checks import MAX_LOG_SCALE
from renderers.data import SH_COUNTS
from renderers.motion import DEGREES, MAX_LOG_SOFTNESS, MAX_SLOTS, check_tensor
from scene4d.rig import check_knots, raise_first

if TYPE_CHECKING:
    from scene4d.scene import Scene4D

REQUIRED = ("means", "quats", "log_scales", "logit_opacities", "sh", "labels", "instances")
TOGETHER = (("rig", "handle_ids", "handle_logits"), ("residuals", "t_ref"), ("t_on", "t_off", "log_softness"))


def check_structure(scene: Scene4D) -> None:
    """Raise ValueError on a wrong shape, dtype or device, on parts that are missing, and on ids that lead nowhere."""
    means = scene.means
    if not isinstance(means, Tensor) or means.dtype not in (torch.float32, torch.float64) or means.ndim != 2:
        raise ValueError(f"means must be a float32 or float64 tensor [N, 3], got {means!r:.60}")
    for group in TOGETHER:
        missing = [name for name in group if getattr(scene, name) is None]
        if missing and len(missing) < len(group):
            raise ValueError(f"{', '.join(group)} must be given together, got no {', '.join(missing)}")
    _check_shapes(scene)
    if scene.rig is not None:
        if scene.rig.centers.dtype != means.dtype or scene.rig.centers.device != means.device:
            got = f"{scene.rig.centers.dtype} on {scene.rig.centers.device}"
            raise ValueError(f"rig must be {means.dtype} on {means.device} like means, got {got}")
    _check_ids(scene)


_good_ids: deque[tuple[tuple[weakref.ref[Tensor], int], ...]] = deque(maxlen=8)


def _check_ids(scene: Scene4D) -> None:
    """Check ids, unless these very tensors were checked lately: a fit makes a scene a step, with the same ids."""
    tensors = [scene.labels, scene.instances]
    if scene.rig is not None and scene.handle_ids is not None:
        tensors += [scene.handle_ids, scene.rig.instances]
    if any(x.is_inference() for x in tensors):  # these do not count their versions
        return _raise_bad_ids(scene)
    for known in _good_ids:
        pairs = zip(known, tensors, strict=False)
        if len(known) == len(tensors) and all(ref() is x and version == x._version for (ref, version), x in pairs):
            return None
    _raise_bad_ids(scene)
    _good_ids.append(tuple((weakref.ref(x), x._version) for x in tensors))


def _raise_bad_ids(scene: Scene4D) -> None:
    rules = [
        (scene.labels < 0, "labels", "not be negative", scene.labels),
        (scene.instances < 0, "instances", "not be negative", scene.instances),
    ]
    if scene.rig is not None and scene.handle_ids is not None:
        ids, J = scene.handle_ids, len(scene.rig)
        rules.append(((ids < -1) | (ids >= J), "handle_ids", f"be -1 or one of the {J} handles", ids))
        if J:
            instance_of = scene.rig.instances[ids.clamp(0, J - 1).long()]
            foreign = (ids >= 0) & (instance_of != scene.instances[:, None])
            rules.append((foreign, "handle_ids", "be handles of the Gaussian's own instance", ids))
    raise_first(*rules)


def _check_shapes(scene: Scene4D) -> None:
    means = scene.means
    N, M = means.shape[0], None
    if isinstance(scene.handle_ids, Tensor) and scene.handle_ids.ndim == 2:
        M = scene.handle_ids.shape[1]
    shapes: dict[str, tuple[int | None, ...]] = {
        "means": (N, 3), "quats": (N, 4), "log_scales": (N, 3), "sh": (N, None, 3),
        "handle_ids": (N, M), "handle_logits": (N, M), "residuals": (N, None, 3),
    }  # fmt: skip
    one_each = ("logit_opacities", "labels", "instances", "t_ref", "t_on", "t_off", "log_softness")
    for name, shape in (shapes | dict.fromkeys(one_each, (N,))).items():
        tensor = getattr(scene, name)
        if tensor is not None or name in REQUIRED:
            integer = name in ("labels", "instances", "handle_ids")
            check_tensor(tensor, name, shape, torch.int32 if integer else means.dtype, means.device)
    if M is not None and M > MAX_SLOTS:
        raise ValueError(f"handle_ids must have at most {MAX_SLOTS} columns, got {M}")
    if scene.sh.shape[1] not in SH_COUNTS:
        raise ValueError(f"sh must have 1, 4, 9 or 16 coefficients, got {scene.sh.shape[1]}")
    if scene.residuals is not None and scene.residuals.shape[1] not in DEGREES:
        raise ValueError(f"residuals must be of degree 0, 1 or 3, got {scene.residuals.shape[1]}")


def check_values(scene: Scene4D) -> None:
    """Raise ValueError on values that are not finite or out of range, in the scene or its rig."""
    finite = ("means", "quats", "log_scales", "logit_opacities", "sh", "handle_logits", "residuals", "t_ref")
    for name in finite:
        if (tensor := getattr(scene, name)) is not None:
            raise_first((~torch.isfinite(tensor), name, "be finite", tensor.detach()))
    log_scales = scene.log_scales.detach()
    raise_first(
        (log_scales > MAX_LOG_SCALE, "log_scales", f"be at most {MAX_LOG_SCALE} (are they logarithms?)", log_scales)
    )
    if scene.t_on is not None and scene.t_off is not None and scene.log_softness is not None:
        t_on, t_off, softness = scene.t_on.detach(), scene.t_off.detach(), scene.log_softness.detach()
        raise_first(
            (~(t_on < torch.inf), "t_on", "be a time or -inf", t_on),
            (~(t_off > -torch.inf), "t_off", "be a time or inf", t_off),
            (t_off < t_on, "t_off", "not be before t_on", t_off),
            (
                ~(softness.abs() <= MAX_LOG_SOFTNESS),
                "log_softness",
                f"be from -{MAX_LOG_SOFTNESS} to {MAX_LOG_SOFTNESS}",
                softness,
            ),
        )
    if scene.rig is not None:
        check_knots(scene.rig)
