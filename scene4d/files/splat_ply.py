"""Static splats of others: PLY in the layout that 3DGS writes. Read by name, whatever else stands in it.

N Gaussians, S SH coefficients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from renderers.data import SH_COUNTS
from scene4d.errors import InputError
from scene4d.files.atomic import read_bytes
from scene4d.files.ply import parse_ply
from scene4d.scene import Scene4D

MAX_BYTES = 1 << 36
REQUIRED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2")
TURNS = ("rot_0", "rot_1", "rot_2", "rot_3")


def read_splat(file: Path) -> Scene4D:
    """A scene that does not move, of one instance 1 and label 0. Properties that are not 3DGS's are left out.

    Raises:
        InputError: it is no such file, truncated, or holds numbers that are not finite.
    """
    table = parse_ply(read_bytes(file, MAX_BYTES), file).tables.get("vertex")
    if table is None:
        raise InputError(f"{file}: has no element vertex")
    names = set(table.dtype.names or ())
    missing = [name for name in (*REQUIRED, *TURNS) if name not in names]
    if missing:
        raise InputError(f"{file}: has no property {missing[0]}; it is no PLY of Gaussians in the layout of 3DGS")
    rest = [name for name in (f"f_rest_{i}" for i in range(3 * (SH_COUNTS[-1] - 1))) if name in names]
    if len(rest) + 3 not in [3 * count for count in SH_COUNTS] or f"f_rest_{len(rest)}" in names:
        raise InputError(f"{file}: must have 0, 9, 24 or 45 properties f_rest_*, got {len(rest)}")
    sh = _columns(table, ("f_dc_0", "f_dc_1", "f_dc_2"), file)[:, None]
    if rest:  # all of red, then green, then blue
        sh = torch.cat([sh, _columns(table, tuple(rest), file).reshape(len(table), 3, -1).transpose(1, 2)], 1)
    ids = torch.zeros(len(table), dtype=torch.int32)
    scene = Scene4D(
        means=_columns(table, ("x", "y", "z"), file),
        quats=_columns(table, TURNS, file),
        log_scales=_columns(table, ("scale_0", "scale_1", "scale_2"), file),
        logit_opacities=_columns(table, ("opacity",), file)[:, 0],
        sh=sh.contiguous(),
        labels=ids,
        instances=ids + 1,
    )
    try:
        scene.validate()
    except ValueError as e:
        raise InputError(f"{file}: {e}") from e
    return scene


def _columns(table: np.ndarray, names: tuple[str, ...], file: Path) -> Tensor:
    values = torch.from_numpy(np.stack([table[name].astype(np.float32) for name in names], 1))
    if not bool(values.isfinite().all()):
        raise InputError(f"{file}: {', '.join(names[:3])} must be finite")
    return values
