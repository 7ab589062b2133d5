"""Lenses: how real cameras bend the pinhole image, and how that is undone once, on reading.

Maths in normalised image coordinates (x, y) = (X/Z, Y/Z); pixel centres at +0.5. OpenCV's own functions put pixel
centres at whole numbers, therefore maps are computed here and only applied by `cv2.remap`.

Which K the rectified image gets: the principal point and the pixel aspect stay; the focal length is scaled by the
smallest factor in [0.5, 2] with which every pixel of the rectified image, of unchanged size, has seen something. So
there are no black borders and no skew, as much of the picture is kept as that allows (`alpha=0` of
`cv2.getOptimalNewCameraMatrix`, with the principal point fixed), and a fisheye of 180 degrees is cropped at half its
central resolution rather than stretched without end.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Lock

import cv2
import numpy as np

from scene4d.captures.checks import image_size, number
from scene4d.errors import InputError

MODELS = {"pinhole": (0,), "opencv": (4, 5, 8, 12), "fisheye": (4,), "fov": (1,), "thin_prism_fisheye": (8,)}
MIN_ZOOM, MAX_ZOOM = 0.5, 2.0
MAP_BYTES = 512 << 20  # of rectification maps in memory, 6 bytes a pixel


@dataclass(frozen=True)
class Lens:
    """The intrinsics of a camera as its calibration gives them, in pixels of its images.

    `params` are the coefficients of the model, in OpenCV's order:
    - "opencv": k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4]]] (radial-tangential, rational, thin prism)
    - "fisheye": k1 k2 k3 k4 of the angle: theta (1 + k1 theta^2 + ...) (equidistant, Kannala-Brandt)
    - "fov": omega (Devernay-Faugeras, COLMAP's FOV)
    - "thin_prism_fisheye": k1 k2 p1 p2 k3 k4 sx1 sy1 (COLMAP)
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: str = "pinhole"
    params: tuple[float, ...] = ()
    skew: float = 0.0

    @property
    def is_pinhole(self) -> bool:
        return self.skew == 0.0 and not any(self.params)

    @property
    def K(self) -> np.ndarray:  # noqa: N802 - the field's name for intrinsics
        """[3, 3], with the skew, without the distortion."""
        return np.array([[self.fx, self.skew, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def scaled_to(self, width: int, height: int) -> Lens:
        """The lens of the same images at another size."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
            skew=self.skew * sx,
        )

    def rectified(self) -> Lens:
        """The pinhole camera of the rectified image (see the module's text for the choice)."""
        if self.is_pinhole:
            return self
        zoom = _zoom(self)
        return Lens(self.width, self.height, self.fx * zoom, self.fy * zoom, self.cx, self.cy)


def checked_lens(lens: Lens, where: str) -> Lens:
    """`lens`, or InputError for focal lengths, principal points, sizes and coefficients that no camera has."""
    image_size(lens.width, lens.height, where)
    side = max(lens.width, lens.height)
    for name, focal in (("fx", lens.fx), ("fy", lens.fy)):
        if not 0 < focal < float("inf"):
            raise InputError(f"{where}: the focal length {name} must be positive, got {focal:g}")
        # a field of view of 0.06 degrees, or of 179.9: no lens that anyone reconstructs with
        number(focal, f"{where}: the focal length {name} in pixels", 1e-3 * side, 1e3 * side)
    for name, value, size in (("cx", lens.cx, lens.width), ("cy", lens.cy, lens.height)):
        if not -size <= value <= 2 * size:
            raise InputError(
                f"{where}: the principal point {name} = {value:g} lies far outside of the image of {size} pixels; "
                "was the image resized without its intrinsics?"
            )
    if abs(lens.skew) > 0.1 * lens.fx:
        raise InputError(f"{where}: a skew of {lens.skew:g} pixels is too much for fx = {lens.fx:g}")
    if lens.model not in MODELS:
        raise InputError(f"{where}: unknown lens model {lens.model!r}; known: {', '.join(MODELS)}")
    if len(lens.params) not in MODELS[lens.model]:
        raise InputError(
            f"{where}: lens model {lens.model} takes {' or '.join(map(str, MODELS[lens.model]))} "
            f"coefficients, got {len(lens.params)}"
        )
    for value in lens.params:
        number(value, f"{where}: a distortion coefficient", -1e4, 1e4)
    try:
        lens.rectified()
    except InputError as e:
        raise InputError(f"{where}: {e}") from e
    return lens


def distort(lens: Lens, xy: np.ndarray) -> np.ndarray:
    """Where the lens puts the pinhole directions `xy` [..., 2], in normalised coordinates."""
    x, y = xy[..., 0], xy[..., 1]
    if lens.model == "opencv":
        return np.stack(_radial_tangential(x, y, lens.params), -1)
    if lens.model == "pinhole":
        return xy
    r = np.hypot(x, y)
    safe = np.maximum(r, 1e-12)
    if lens.model == "fov":
        omega = lens.params[0]
        bent = np.arctan(2.0 * r * np.tan(omega / 2.0)) / omega if omega else r
        return xy * np.where(r < 1e-9, 1.0, bent / safe)[..., None]
    theta = np.arctan(r)
    to_angle = np.where(r < 1e-9, 1.0, theta / safe)
    if lens.model == "fisheye":
        t2 = theta * theta
        k1, k2, k3, k4 = lens.params
        return xy * (to_angle * (1.0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))))[..., None]
    u, v = x * to_angle, y * to_angle  # thin prism fisheye: angles, then COLMAP's polynomial
    k1, k2, p1, p2, k3, k4, sx1, sy1 = lens.params
    r2 = u * u + v * v
    radial = r2 * (k1 + r2 * (k2 + r2 * (k3 + r2 * k4)))
    du = u * radial + 2.0 * p1 * u * v + p2 * (r2 + 2.0 * u * u) + sx1 * r2
    dv = v * radial + 2.0 * p2 * u * v + p1 * (r2 + 2.0 * v * v) + sy1 * r2
    return np.stack([u + du, v + dv], -1)


def _radial_tangential(x: np.ndarray, y: np.ndarray, params: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = (*params, *(0.0,) * (12 - len(params)))
    r2 = x * x + y * y
    ratio = (1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1.0 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    xd = x * ratio + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x) + r2 * (s1 + r2 * s2)
    yd = y * ratio + 2.0 * p2 * x * y + p1 * (r2 + 2.0 * y * y) + r2 * (s3 + r2 * s4)
    return xd, yd


def to_pixels(lens: Lens, xy: np.ndarray) -> np.ndarray:
    """Pixels [..., 2] of the captured image in which the pinhole directions `xy` [..., 2] are seen."""
    d = distort(lens, xy)
    return np.stack([lens.fx * d[..., 0] + lens.skew * d[..., 1] + lens.cx, lens.fy * d[..., 1] + lens.cy], -1)


def rectify_points(lens: Lens, pixels: np.ndarray) -> np.ndarray:
    """Pixels [P, 2] of the captured image as pixels of the rectified one (Newton; NaN where it does not converge)."""
    flat = lens.rectified()
    y = (pixels[:, 1] - lens.cy) / lens.fy
    target = np.stack([(pixels[:, 0] - lens.cx - lens.skew * y) / lens.fx, y], -1)
    xy = target.copy()
    if lens.model in ("fisheye", "thin_prism_fisheye"):
        angle = np.minimum(np.linalg.norm(target, axis=-1, keepdims=True), 1.5)
        xy *= np.tan(angle) / np.maximum(angle, 1e-12)
    step = 1e-6
    for _ in range(20):
        miss = distort(lens, xy) - target
        jx = (distort(lens, xy + (step, 0.0)) - miss - target) / step
        jy = (distort(lens, xy + (0.0, step)) - miss - target) / step
        det = jx[:, 0] * jy[:, 1] - jy[:, 0] * jx[:, 1]
        det = np.where(np.abs(det) < 1e-9, 1e-9, det)
        xy[:, 0] -= (jy[:, 1] * miss[:, 0] - jy[:, 0] * miss[:, 1]) / det
        xy[:, 1] -= (jx[:, 0] * miss[:, 1] - jx[:, 1] * miss[:, 0]) / det
        np.clip(xy, -1e3, 1e3, out=xy)
    xy[np.abs(distort(lens, xy) - target).max(-1) > 1e-6] = np.nan
    return xy * (flat.fx, flat.fy) + (flat.cx, flat.cy)


@lru_cache(maxsize=256)
def _zoom(lens: Lens) -> float:
    """The smallest focal factor in [MIN_ZOOM, MAX_ZOOM] with which the rectified image has no empty pixel."""
    low, high = MIN_ZOOM, MAX_ZOOM
    if _covered(lens, low):
        return low
    if not _covered(lens, high):
        raise InputError(
            f"the {lens.model} coefficients {list(lens.params)} fold the image of {lens.width}x{lens.height} onto "
            "itself; check their order (k1 k2 p1 p2 k3) and the focal length"
        )
    for _ in range(40):  # to 1e-12
        middle = 0.5 * (low + high)
        low, high = (low, middle) if _covered(lens, middle) else (middle, high)
    return high


def _covered(lens: Lens, zoom: float) -> bool:
    """Whether each pixel of the rectified image looks inside the captured one, and the map does not fold."""
    xs = (np.linspace(0.5, lens.width - 0.5, 65) - lens.cx) / (lens.fx * zoom)
    ys = (np.linspace(0.5, lens.height - 0.5, 65) - lens.cy) / (lens.fy * zoom)
    grid = np.stack(np.meshgrid(xs, ys), -1)  # [65, 65, 2]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        seen = to_pixels(lens, grid)
        across, down = np.diff(seen, axis=1)[:-1], np.diff(seen, axis=0)[:, :-1]
        area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
        low, high = seen.min((0, 1)), seen.max((0, 1))
    # half a pixel beyond the outermost centres still interpolates between existing pixels and their replicas
    return bool((low >= 0).all() and (high <= (lens.width, lens.height)).all() and (area > 0).all())


class _MapCache:
    """Rectification maps, bounded in bytes: 46 fisheye cameras at full size would take 1.4 GB."""

    def __init__(self) -> None:
        self.maps: OrderedDict[tuple[Lens, Lens], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self.lock = Lock()

    def get(self, lens: Lens, flat: Lens) -> tuple[np.ndarray, np.ndarray]:
        with self.lock:
            key = lens, flat
            found = self.maps.pop(key, None) or _make_maps(lens, flat)
            self.maps[key] = found
            while len(self.maps) > 1 and sum(a.nbytes + b.nbytes for a, b in self.maps.values()) > MAP_BYTES:
                self.maps.popitem(last=False)
            return found


_MAPS = _MapCache()


def _make_maps(lens: Lens, flat: Lens) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-point maps for cv2.remap, 1/32 pixel: where each pixel of the pinhole camera `flat` is seen by `lens`."""
    xs = (np.arange(flat.width) + 0.5 - flat.cx) / flat.fx
    map_x = np.empty((flat.height, flat.width), np.float32)
    map_y = np.empty_like(map_x)
    for top in range(0, flat.height, 64):  # in strips: float64 for a whole 4K image would take 1 GB
        ys = (np.arange(top, min(top + 64, flat.height)) + 0.5 - flat.cy) / flat.fy
        seen = to_pixels(lens, np.stack(np.meshgrid(xs, ys), -1)) - 0.5  # cv2 counts from the first pixel's centre
        map_x[top : top + 64], map_y[top : top + 64] = seen[..., 0], seen[..., 1]
    return cv2.convertMaps(map_x, map_y, cv2.CV_16SC2)


def rectify_image(lens: Lens, image: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """The picture as `lens.rectified()` sees it, at `size` (width, height; default: the captured one).

    Much smaller pictures are made by averaging to about twice the size, bending, and averaging again: within 3 % as
    sharp (variance of the Laplacian) as bending all pixels, and several times faster.
    """
    width, height = size or (lens.width, lens.height)
    if not lens.is_pinhole:
        flat = lens.rectified()  # of the captured size: the zoom depends on it
        factor = lens.width // (2 * width)
        if factor > 1:
            lens = lens.scaled_to(round(lens.width / factor), round(lens.height / factor))
            image = cv2.resize(image, (lens.width, lens.height), interpolation=cv2.INTER_AREA)
        maps = _MAPS.get(lens, flat.scaled_to(lens.width, lens.height))
        # cubic: linear would take a quarter of the finest detail, also where averaging follows
        image = cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if (width, height) == image.shape[1::-1]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if width < lens.width else cv2.INTER_CUBIC)


def rectify_nearest(lens: Lens, values: np.ndarray, size: tuple[int, int] | None = None) -> np.ndarray:
    """Labels or z depth, which keep their values, as `lens.rectified()` sees them, at `size`."""
    width, height = size or (lens.width, lens.height)
    if not lens.is_pinhole:
        maps = _MAPS.get(lens, lens.rectified().scaled_to(width, height))
        return cv2.remap(values, *maps, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    if (width, height) == values.shape[1::-1]:
        return values
    # INTER_NEAREST is half a pixel off
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
