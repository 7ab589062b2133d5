"""`scene.ply`: a scene as binary PLY that any 3DGS viewer opens at the canonical time (docs/project.md).

Element `vertex` has the standard 3DGS properties first, then ours; the elements `handle` and `knot` hold the rig.
Numbers are stored as they are in memory, float32 and integers as int32, so a round trip is exact.

N Gaussians, S SH coefficients, P residual coefficients, M handle slots (<= 4), J handles, L knots.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scene4d.errors import InputError
from scene4d.files.ply import parse_ply, ply_bytes

SH_COUNTS = (1, 4, 9, 16)
RESIDUAL_COUNTS = (0, 1, 3)
MAX_SLOTS = 4
INTERPOLATIONS = (0, 1)  # linear, cubic


@dataclass(frozen=True, eq=False)
class SceneTensors:
    """What the file stores. Times in seconds, lengths in scene units; floats are float32, ids int64."""

    means: Tensor  # [N, 3]
    quats: Tensor  # [N, 4] wxyz
    log_scales: Tensor  # [N, 3]
    logit_opacities: Tensor  # [N]
    sh: Tensor  # [N, S, 3] S in {1, 4, 9, 16}
    velocities: Tensor  # [N, P, 3] P in {0, 1, 3}; coefficient p is of (t - (t_on + t_off) / 2)^(p + 1)
    t_on: Tensor  # [N]
    t_off: Tensor  # [N]
    t_tau: Tensor  # [N] softness of the window
    handle_ids: Tensor  # [N, M] M <= 4; -1 = empty slot
    handle_weights: Tensor  # [N, M]
    labels: Tensor  # [N]
    instances: Tensor  # [N]
    handle_instances: Tensor  # [J]
    handle_parents: Tensor  # [J] -1 = none
    handle_first_knots: Tensor  # [J]
    handle_knot_counts: Tensor  # [J]
    handle_interpolations: Tensor  # [J] 0 = linear and slerp, 1 = cubic
    knot_times: Tensor  # [L]
    knot_quats: Tensor  # [L, 4] wxyz, relative to rest
    knot_translations: Tensor  # [L, 3] relative to rest

    def __post_init__(self) -> None:
        counts = {"vertex": len(self.means), "handle": len(self.handle_instances), "knot": len(self.knot_times)}
        for element, name, dtype, shape in LAYOUT:
            tensor: Tensor = getattr(self, name)
            free = tensor.shape[1] if tensor.ndim > 1 else -1
            expected = (counts[element], *(free if side is None else side for side in shape))
            if tensor.dtype != dtype or tuple(tensor.shape) != expected:
                got = f"{tensor.dtype} {list(tensor.shape)}"
                raise ValueError(f"{name} must be {dtype} {list(expected)}, got {got}")
        for name, tensor, allowed in (
            ("sh", self.sh, SH_COUNTS),
            ("velocities", self.velocities, RESIDUAL_COUNTS),
            ("handle_ids", self.handle_ids, range(MAX_SLOTS + 1)),
        ):
            if tensor.shape[1] not in allowed:
                raise ValueError(f"{name} must have {list(allowed)} columns, got {tensor.shape[1]}")
        if self.handle_weights.shape != self.handle_ids.shape:
            raise ValueError(f"handle_weights must be {list(self.handle_ids.shape)}, got {self.handle_weights.shape}")
        self._check_references(counts["handle"], counts["knot"])

    def _check_references(self, handles: int, knots: int) -> None:
        """Every index points at something: a hostile file must not reach the renderer."""
        inside = {"handle_ids": (-1, handles), "handle_parents": (-1, handles), "handle_first_knots": (0, knots + 1)}
        inside |= {"handle_knot_counts": (0, knots + 1), "handle_interpolations": (0, len(INTERPOLATIONS))}
        for name, (low, high) in inside.items():
            tensor: Tensor = getattr(self, name)
            if tensor.numel() and not low <= int(tensor.min()) <= int(tensor.max()) < high:
                raise ValueError(f"{name} must be {low} to {high - 1}, got {int(tensor.min())} to {int(tensor.max())}")
        ends = self.handle_first_knots + self.handle_knot_counts
        if ends.numel() and int(ends.max()) > knots:
            raise ValueError(f"handles must end within the {knots} knots, got {int(ends.max())}")
        if (self.handle_parents == torch.arange(handles)).any():
            raise ValueError("handle_parents must not name the handle itself")

    @property
    def time_range(self) -> tuple[float, float] | None:
        """Seconds from the first knot to the last, or of the windows that end; None: nothing changes."""
        times = torch.cat([self.knot_times, self.t_on, self.t_off]) if not len(self.knot_times) else self.knot_times
        times = times[times.isfinite()]
        return (float(times.min()), float(times.max())) if times.numel() else None


# element, field, dtype, sides after the first; None: any number
LAYOUT: tuple[tuple[str, str, torch.dtype, tuple[int | None, ...]], ...] = (
    ("vertex", "means", torch.float32, (3,)),
    ("vertex", "quats", torch.float32, (4,)),
    ("vertex", "log_scales", torch.float32, (3,)),
    ("vertex", "logit_opacities", torch.float32, ()),
    ("vertex", "sh", torch.float32, (None, 3)),
    ("vertex", "velocities", torch.float32, (None, 3)),
    ("vertex", "t_on", torch.float32, ()),
    ("vertex", "t_off", torch.float32, ()),
    ("vertex", "t_tau", torch.float32, ()),
    ("vertex", "handle_ids", torch.int64, (None,)),
    ("vertex", "handle_weights", torch.float32, (None,)),
    ("vertex", "labels", torch.int64, ()),
    ("vertex", "instances", torch.int64, ()),
    ("handle", "handle_instances", torch.int64, ()),
    ("handle", "handle_parents", torch.int64, ()),
    ("handle", "handle_first_knots", torch.int64, ()),
    ("handle", "handle_knot_counts", torch.int64, ()),
    ("handle", "handle_interpolations", torch.int64, ()),
    ("knot", "knot_times", torch.float32, ()),
    ("knot", "knot_quats", torch.float32, (4,)),
    ("knot", "knot_translations", torch.float32, (3,)),
)


def _columns(name: str, count: int) -> tuple[str, ...]:
    """The properties that hold a field whose rows have `count` numbers."""
    named = {
        "means": ("x", "y", "z"),
        "logit_opacities": ("opacity",),
        "t_on": ("t_on",),
        "t_off": ("t_off",),
        "t_tau": ("t_tau",),
        "labels": ("label",),
        "instances": ("instance",),
        "handle_instances": ("instance",),
        "handle_parents": ("parent",),
        "handle_first_knots": ("first_knot",),
        "handle_knot_counts": ("n_knots",),
        "handle_interpolations": ("interp",),
        "knot_times": ("t",),
        "knot_quats": ("qw", "qx", "qy", "qz"),
        "knot_translations": ("tx", "ty", "tz"),
    }
    prefixes = {"quats": "rot_", "log_scales": "scale_", "velocities": "vel_", "handle_ids": "h_idx_"}
    prefixes |= {"handle_weights": "h_w_", "f_dc": "f_dc_", "f_rest": "f_rest_"}
    return named[name] if name in named else tuple(f"{prefixes[name]}{i}" for i in range(count))


# 3DGS's own `save_ply` writes them in this order, and some viewers read by position
VERTEX_ORDER = ("means", "normals", "f_dc", "f_rest", "logit_opacities", "log_scales", "quats", "velocities", "t_on",
                "t_off", "t_tau", "handle_ids", "handle_weights", "labels", "instances")  # fmt: skip


def scene_bytes(scene: SceneTensors, units: str, fps: float | None, canonical_time: float) -> list[bytes]:
    """The file, in parts. Raises ValueError: an id does not fit into 32 bits."""
    flat = {name: getattr(scene, name).detach().cpu() for _, name, *_ in LAYOUT}
    N, S, _ = scene.sh.shape
    sh = flat.pop("sh")
    flat["f_dc"] = sh[:, 0]
    flat["f_rest"] = sh[:, 1:].transpose(1, 2)  # channel-major: all of red, then green, then blue
    vertex = [(name, (flat[name] if name != "normals" else None)) for name in VERTEX_ORDER]
    tables = {"vertex": _table(N, vertex)}
    for element in ("handle", "knot"):
        part = [(name, flat[name]) for e, name, *_ in LAYOUT if e == element]
        tables[element] = _table(len(part[0][1]), part)
    words = "".join(c if c.isascii() and c.isprintable() else "?" for c in units)[:80]
    comments = ["scene4d scene 1", f"units {words}", f"fps {fps if fps is not None else 'unknown'}"]
    return ply_bytes(tables, [*comments, f"canonical_time {canonical_time!r}"])


def _table(count: int, parts: list) -> np.ndarray:
    columns: list[tuple[str, np.ndarray]] = []
    for name, tensor in parts:
        if tensor is None:
            columns += [(axis, np.zeros(count, np.float32)) for axis in ("nx", "ny", "nz")]
            continue
        width = tensor.numel() // count if count else int(np.prod(tensor.shape[1:]))
        values = tensor.reshape(count, width).numpy()
        if values.dtype == np.int64:
            if values.size and (values.min() < -(2**31) or values.max() >= 2**31):
                raise ValueError(f"{name} must fit into 32 bits, got {values.min()} to {values.max()}")
            values = values.astype(np.int32)
        columns += [(column, values[:, i]) for i, column in enumerate(_columns(name, width))]
    table = np.empty(count, [(name, values.dtype) for name, values in columns])
    for name, values in columns:
        table[name] = values
    return table


def parse_scene(data: bytes, path: Path) -> SceneTensors:
    """The scene in the content of `path`. Raises InputError: it is not a whole scene of ours."""
    tables = parse_ply(data, path).tables
    missing = {"vertex", "handle", "knot"} - set(tables)
    if missing:
        raise InputError(f"{path}: has no element {sorted(missing)[0]}")
    taken = {}
    try:
        for element, name, dtype, shape in LAYOUT:
            if name != "sh":
                taken[name] = _take(tables[element], name, dtype, shape)
        f_dc = _take(tables["vertex"], "f_dc", torch.float32, (3,))
        f_rest = _take(tables["vertex"], "f_rest", torch.float32, (3, None))
        taken["sh"] = torch.cat([f_dc[:, None], f_rest.transpose(1, 2)], 1)
        return SceneTensors(**taken)
    except ValueError as e:
        raise InputError(f"{path}: {e}") from e


def _take(table: np.ndarray, name: str, dtype: torch.dtype, shape: tuple[int | None, ...]) -> Tensor:
    """A field from its columns. Raises ValueError."""
    present = set(table.dtype.names or ())
    width = int(np.prod([side for side in shape if side is not None]))
    if None in shape:
        count = 0
        while _columns(name, count + 1)[-1] in present:
            count += 1
        if count % width:
            raise ValueError(f"{_columns(name, count)[-1]} must be the last of a multiple of {width}")
    else:
        count = width
    columns = _columns(name, count)
    kind = np.dtype(np.float32 if dtype == torch.float32 else np.int32)
    wrong = [column for column in columns if column not in present or table.dtype[column] != kind]
    if wrong:
        raise ValueError(f"property {wrong[0]} must be there and be {kind}")
    values = np.empty((len(table), count), kind)
    for i, column in enumerate(columns):
        values[:, i] = table[column]
    sides = [count // width if side is None else side for side in shape]
    return torch.from_numpy(values).to(dtype).reshape(len(table), *sides)


def equal_scenes(a: SceneTensors, b: SceneTensors) -> bool:
    """Whether all bits are equal (NaN equals itself, 0 does not equal -0)."""
    return all(_bits(getattr(a, f.name)) == _bits(getattr(b, f.name)) for f in fields(SceneTensors))


def _bits(tensor: Tensor) -> tuple[str, list[int], bytes]:
    return str(tensor.dtype), list(tensor.shape), tensor.detach().cpu().contiguous().numpy().tobytes()
