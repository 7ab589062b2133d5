"""Lenses as files name them: COLMAP's camera models and dictionaries of fl_x, cx, k1 and their kin."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scene4d.captures.checks import image_size, number
from scene4d.captures.lens import Lens, checked_lens
from scene4d.errors import InputError

# COLMAP's model names by id, with the number of parameters (colmap src/colmap/sensor/models.h)
COLMAP_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
COLMAP_COUNTS = dict(COLMAP_MODELS.values())
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")


def colmap_lens(model: str, params: Sequence[float], width: int, height: int, where: str) -> Lens:
    """The lens of a COLMAP camera: its parameters in COLMAP's order."""
    if model not in COLMAP_COUNTS:
        raise InputError(
            f"{where}: camera model {model!r} is not supported; known: {', '.join(COLMAP_COUNTS)}; "
            "undistort the images with `colmap image_undistorter` first"
        )
    if len(params) != COLMAP_COUNTS[model]:
        raise InputError(f"{where}: camera model {model} takes {COLMAP_COUNTS[model]} parameters, got {len(params)}")
    values = [number(p, f"{where}: a camera parameter", -1e9, 1e9) for p in params]
    if model in ONE_FOCAL:
        values.insert(0, values[0])
    fx, fy, cx, cy, *k = values
    kind, coefficients = _coefficients(model, k)
    size = image_size(width, height, where)
    return checked_lens(Lens(*size, fx, fy, cx, cy, kind, tuple(coefficients)), where)


def _coefficients(model: str, k: list[float]) -> tuple[str, list[float]]:
    """Our lens model and its coefficients, padded with zeros."""
    if model in ("SIMPLE_PINHOLE", "PINHOLE"):
        return "pinhole", []
    if model in ("SIMPLE_RADIAL", "RADIAL"):
        return "opencv", [*k, *[0.0] * (4 - len(k))]
    if model in ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"):
        return "fisheye", [*k, *[0.0] * (4 - len(k))]
    return {"FOV": "fov", "THIN_PRISM_FISHEYE": "thin_prism_fisheye"}.get(model, "opencv"), k


def named_lens(keys: dict, size: tuple[int, int] | None, where: str) -> Lens:
    """A lens from named intrinsics: nerfstudio's (fl_x, k1, ...), plain ones (fx, f, ...), or a field of view.

    `size` is that of the pictures, used where the keys give none.
    """
    width, height = keys.get("w", keys.get("width")), keys.get("h", keys.get("height"))
    if width is None or height is None:
        if size is None:
            raise InputError(f"{where}: neither the file nor an image gives the size; add w and h")
        width, height = size
    width, height = image_size(width, height, where)
    fx = _focal(keys, ("fl_x", "fx", "f"), "camera_angle_x", width, where)
    fy = _focal(keys, ("fl_y", "fy", "f"), "camera_angle_y", height, where)
    fx = fy if fx is None else fx
    fy = fx if fy is None else fy
    if fx is None or fy is None:
        raise InputError(f"{where}: no focal length; add fl_x or camera_angle_x")
    cx = number(keys.get("cx", width / 2), f"{where}: cx")
    cy = number(keys.get("cy", height / 2), f"{where}: cy")
    kind, params = _named_distortion(keys, where)
    return checked_lens(Lens(width, height, fx, fy, cx, cy, kind, params), where)


def _focal(keys: dict, names: Sequence[str], angle: str, side: int, where: str) -> float | None:
    for name in names:
        if keys.get(name) is not None:
            return number(keys[name], f"{where}: {name}")
    if keys.get(angle) is None:
        return None
    return 0.5 * side / math.tan(0.5 * number(keys[angle], f"{where}: {angle} in radians", 1e-3, 3.1))


def _named_distortion(keys: dict, where: str) -> tuple[str, tuple[float, ...]]:
    model = keys.get("camera_model", keys.get("model", "OPENCV"))
    names = ["k1", "k2", "k3", "k4", "p1", "p2"]
    listed = keys.get("distortion_params")
    if isinstance(listed, list) and len(listed) == 6:
        keys = {**keys, **dict(zip(names, listed, strict=True))}  # nerfstudio's order
    elif listed is not None:
        raise InputError(f"{where}: distortion_params must be 6 numbers k1 k2 k3 k4 p1 p2, got {str(listed)[:80]}")
    k1, k2, k3, k4, p1, p2 = (number(keys.get(n) or 0.0, f"{where}: {n}", -1e4, 1e4) for n in names)
    if model in ("OPENCV_FISHEYE", "fisheye"):
        return "fisheye", (k1, k2, k3, k4)
    if model in ("SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        return "fisheye", (k1, k2, 0.0, 0.0)
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE", "FULL_OPENCV"):
        raise InputError(
            f"{where}: camera model {str(model)[:40]!r} is not supported; known: OPENCV, OPENCV_FISHEYE, PINHOLE, "
            "SIMPLE_RADIAL, RADIAL, FULL_OPENCV; undistort the images first"
        )
    k5, k6 = (number(keys.get(n) or 0.0, f"{where}: {n}", -1e4, 1e4) for n in ("k5", "k6"))
    params = (k1, k2, p1, p2, k3, k4, k5, k6)
    return ("opencv", params) if any(params) else ("pinhole", ())
