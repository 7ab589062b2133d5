"""`scene.ply`: a scene as binary PLY that any 3DGS viewer opens at the canonical time (docs/project.md).

Element `vertex` has the standard 3DGS properties first, then ours; the elements `handle` and `knot` hold the rig.
Numbers are stored as they are in memory, float32 and int32, so a round trip is exact to the bit. Where motion or a
window makes the canonical time differ from the raw parameters, these follow in properties of their own, `rest_*`.

N Gaussians, S SH coefficients, P residual coefficients, M handle slots (<= 4), J handles, L knots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import InputError
from scene4d.files.ply import NAMES, parse_ply, ply_bytes
from scene4d.rig import INTEGERS as RIG_INTEGERS
from scene4d.scene import Scene4D
from scene4d.scene_checks import TOGETHER
from scene4d.scene_tools import RIG_PREFIX, scene_from_tensors, scene_tensors

TITLE, VERSION = "scene4d scene", 1
FAINT = -80.0  # logit of what is not there: opacity 2e-35, and exp(80) is still a float32

# Tensor, named as in `scene_tensors` -> its properties; a text stands for itself with 0, 1, ... behind it.
# 3DGS's own `save_ply` writes those of STANDARD in this order, and some viewers read by position.
Properties = dict[str, tuple[str, ...] | str]
STANDARD: Properties = {
    "means": ("x", "y", "z"),
    "normals": ("nx", "ny", "nz"),
    "f_dc": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "f_rest": "f_rest_",
    "logit_opacities": ("opacity",),
    "log_scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
}
REST: Properties = {
    "means": ("rest_x", "rest_y", "rest_z"),
    "logit_opacities": ("rest_opacity",),
    "quats": ("rest_rot_0", "rest_rot_1", "rest_rot_2", "rest_rot_3"),
}
OURS: Properties = {
    "labels": ("label",),
    "instances": ("instance",),
    "handle_ids": "handle_",
    "handle_logits": "handle_logit_",
    "residuals": "residual_",
    "t_ref": ("t_ref",),
    "t_on": ("t_on",),
    "t_off": ("t_off",),
    "log_softness": ("log_softness",),
}
HANDLE: Properties = {
    "centers": ("cx", "cy", "cz"),
    "parents": ("parent",),
    "instances": ("instance",),
    "interpolations": ("interp",),
    "knot_counts": ("n_knots",),
}
KNOT: Properties = {
    "knot_times": ("t",),
    "knot_quats": ("qw", "qx", "qy", "qz"),
    "knot_translations": ("tx", "ty", "tz"),
}
RIG = {"handle": HANDLE, "knot": KNOT}
INTEGERS = {"labels", "instances", "handle_ids", *RIG_INTEGERS}


def scene_bytes(scene: Scene4D, units: str, fps: float | None, canonical_time: float) -> list[bytes]:
    """The file, in parts. The scene may be on any device.

    Raises:
        ValueError: the scene is float64, or holds values that `Scene4D.validate` refuses.
    """
    if scene.means.dtype != torch.float32:
        raise ValueError(f"scene must be float32 (scene.to(dtype=torch.float32) makes it so), got {scene.means.dtype}")
    scene.validate()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in scene_tensors(scene).items()}
    tables = {"vertex": _vertices(tensors, _shown(scene_from_tensors(tensors), canonical_time))}
    if scene.rig is not None:
        for element, properties in RIG.items():
            tables[element] = _table([(properties[name], tensors[RIG_PREFIX + name]) for name in properties])
    words = "".join(c if c.isascii() and c.isprintable() else "?" for c in units)[:80]
    comments = [f"{TITLE} {VERSION}", f"units {words}", f"fps {fps if fps is not None else 'unknown'}"]
    return ply_bytes(tables, [*comments, f"canonical_time {float(canonical_time)!r}"])


@torch.no_grad()
def _shown(scene: Scene4D, t: float) -> dict[str, Tensor]:
    """What viewers that know no motion are shown: the scene at t; at rest and faint where that is not finite."""
    rest = {name: getattr(scene, name) for name in REST}
    if all(getattr(scene, name) is None for group in TOGETHER for name in group):
        return rest
    now = scene.at(t)
    whole = torch.cat([now.means, now.quats, now.logit_opacities[:, None]], 1).isfinite().all(1)
    return {
        "means": torch.where(whole[:, None], now.means, rest["means"]),
        "quats": torch.where(whole[:, None], now.quats, rest["quats"]),
        "logit_opacities": torch.where(whole, now.logit_opacities.clamp_min(FAINT), FAINT),
    }


def _vertices(tensors: Mapping[str, Tensor], shown: Mapping[str, Tensor]) -> np.ndarray:
    standard = {
        **shown,
        "normals": torch.zeros_like(tensors["means"]),
        "log_scales": tensors["log_scales"],
        "f_dc": tensors["sh"][:, 0],
        "f_rest": tensors["sh"][:, 1:].transpose(1, 2),  # all of red, then green, then blue
    }
    parts = [(STANDARD[name], standard[name]) for name in STANDARD]
    parts += [(REST[name], tensors[name]) for name in REST if not _equal_bits(tensors[name], shown[name])]
    return _table(parts + [(OURS[name], tensors[name]) for name in OURS if name in tensors])


def _equal_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))


def _table(parts: list[tuple[tuple[str, ...] | str, Tensor]]) -> np.ndarray:
    """A structured array with one field a property."""
    columns: dict[str, np.ndarray] = {}
    for properties, tensor in parts:
        width = int(np.prod(tensor.shape[1:]))
        names = properties if isinstance(properties, tuple) else [f"{properties}{i}" for i in range(width)]
        columns |= dict(zip(names, tensor.reshape(-1, width).numpy().T if width else (), strict=True))
    table = np.empty(len(parts[0][1]), [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        table[name] = values
    return table


# -- reading -----------------------------------------------------------------------------------------------------------


def parse_scene(data: bytes, path: Path) -> Scene4D:
    """The scene in the content of `path`, on the CPU.

    Raises:
        InputError: it is not a whole scene of ours, or not one that `Scene4D` and its `validate` let pass.
    """
    ply = parse_ply(data, path)
    _check_version(ply.comments, path)
    if set(ply.tables) not in ({"vertex"}, {"vertex", *RIG}):
        raise InputError(f"{path}: must have the element vertex and, with a rig, handle and knot")
    try:
        tensors = _take_vertices(ply.tables["vertex"], rigged="handle" in ply.tables)
        for element in set(RIG) & set(ply.tables):
            taken = _take_all(ply.tables[element], [RIG[element]])
            tensors |= {RIG_PREFIX + name: tensor for name, tensor in taken.items()}
        scene = scene_from_tensors(tensors)
        scene.validate()
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e
    return scene


def _check_version(comments: tuple[str, ...], path: Path) -> None:
    title, _, version = (comments or ("",))[0].rpartition(" ")
    if title != TITLE:
        raise InputError(f"{path}: its first comment must be '{TITLE} {VERSION}': it is no scene of a project")
    if version != str(VERSION):
        raise InputError(f"{path}: version {version[:20]!r} is not {VERSION}; update scene4d")


def _take_vertices(table: np.ndarray, rigged: bool) -> dict[str, Tensor]:
    """The tensors per Gaussian. Optional parts that belong together are there as soon as one of them is."""
    names = set(table.dtype.names or ())
    rest = {name: properties for name, properties in REST.items() if names & set(properties)}
    absent: set[str] = set()
    for group in TOGETHER:
        given = rigged if "rig" in group else any(_first(OURS[name]) in names for name in group)
        absent |= set() if given else set(group)
    tensors = _take_all(table, [STANDARD, rest, {name: OURS[name] for name in OURS if name not in absent}])
    f_dc, f_rest = tensors.pop("f_dc"), _by_three(tensors.pop("f_rest"), "f_rest", axis=1)
    tensors["sh"] = torch.cat([f_dc[:, None], f_rest.transpose(1, 2)], 1)
    if "residuals" in tensors:
        tensors["residuals"] = _by_three(tensors["residuals"], "residual", axis=2)
    del tensors["normals"]
    return tensors


def _take_all(table: np.ndarray, parts: Sequence[Properties]) -> dict[str, Tensor]:
    """The tensors of a table; a later part replaces those of an earlier one. Raises ValueError."""
    tensors, taken = {}, set()
    for part in parts:
        for name, properties in part.items():
            columns = _names_in(table, properties)
            kind = np.dtype(np.int32 if name in INTEGERS else np.float32)
            values = np.empty((len(table), len(columns)), kind)
            for i, column in enumerate(columns):
                if column not in (table.dtype.names or ()) or table.dtype[column] != kind:
                    raise ValueError(f"property {column} must be there and be {NAMES[kind]}")
                values[:, i] = table[column]
            taken |= set(columns)
            one = isinstance(properties, tuple) and len(properties) == 1
            tensors[name] = torch.from_numpy(values[:, 0] if one else values)
    for column in table.dtype.names or ():  # else part of the file would be lost in silence
        if column not in taken:
            raise ValueError(f"property {column[:40]!r} must be one that docs/project.md names")
    return tensors


def _names_in(table: np.ndarray, properties: tuple[str, ...] | str) -> tuple[str, ...]:
    """The properties of a tensor; of numbered ones those up to the first that is missing."""
    if isinstance(properties, tuple):
        return properties
    names, present = [], set(table.dtype.names or ())
    while f"{properties}{len(names)}" in present:
        names.append(f"{properties}{len(names)}")
    return tuple(names)


def _first(properties: tuple[str, ...] | str) -> str:
    return properties[0] if isinstance(properties, tuple) else f"{properties}0"


def _by_three(values: Tensor, prefix: str, axis: int) -> Tensor:
    """[N, 3 k] as [N, 3, k] (axis 1 has the three) or [N, k, 3] (axis 2)."""
    N, count = values.shape
    if count % 3:
        raise ValueError(f"{prefix}_* must be 3 properties or a multiple, got {count}")
    return values.reshape((N, 3, count // 3) if axis == 1 else (N, count // 3, 3))
