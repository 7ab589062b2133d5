"""What is right in the calibration of the treadmill sample: distortion, from its chessboards; principal points, from
points of the treadmill that all four cameras see and from features that cameras 1 and 2 share.

    python scripts/treadmill_calibration.py [--wheel pose2sim-0.10.49-py3-none-any.whl] [--json]

It takes about two minutes. docs/captures.md quotes what it prints; `CENTER_OFFSETS` in scene4d/worlds/treadmill.py is
its last line.
"""

from __future__ import annotations

import json as json_format
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from scipy.optimize import least_squares

from scene4d.worlds.treadmill import CALIBRATION, checked_wheel, download_wheel, read_calibration

BOARDS = "Pose2Sim/Demo_SinglePerson/calibration/intrinsics/"
STILLS = "Pose2Sim/Demo_SinglePerson/calibration/extrinsics/{name}_ext.png"
CORNERS, SQUARE = (4, 7), 60.0  # inner corners, millimetres (the demo's Config.toml)
SCALES = {"as in the file": 1.0, "file / 64": 1.0 / 64.0, "none": 0.0}  # of the distortion coefficients
# White stickers on the treadmill in the stills, found by eye to about 2 pixels; then the centroid is taken.
STICKERS = {
    "near right": {"cam01": (320, 1338), "cam02": (328, 1209), "cam03": (517, 1091), "cam04": (890, 1070)},
    "far right": {"cam01": (110, 1061), "cam02": (441, 1041), "cam03": (875, 1234), "cam04": (837, 1411)},
    "near left": {"cam01": (773, 1293), "cam02": (764, 1272), "cam03": (165, 1240), "cam04": (520, 1117)},
    "far left": {"cam01": (523, 1064), "cam02": (794, 1085), "cam03": (485, 1432), "cam04": (385, 1396)},
}
WINDOW = 9  # pixels to each side
EPIPOLAR_BAND = 30.0  # pixels around the epipolar line in which features may match
EPIPOLAR_INLIER = 4.0  # pixels; of random matches in the band 13 % are nearer than that
FEATURE_WEIGHT = 0.3  # of an epipolar distance against a sticker's: features are fewer in kind but more in number
OFFSET_PRIOR = 0.001  # a pixel of offset costs as much as this: picks one of the solutions that shift all cameras


@dataclass(frozen=True)
class Config:
    """Measure the calibration of the treadmill sample."""

    wheel: Path | None = None
    """The wheel, if you have downloaded it already."""
    json: bool = False
    """Print one JSON object."""


def read_image(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    found = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert found is not None, name
    return found


# -- chessboards -----------------------------------------------------------------------------------------------------


def board_corners(archive: zipfile.ZipFile, camera: str) -> list[np.ndarray]:
    """Corners [28, 2] of every picture of the board in which all are found."""
    found = []
    for name in sorted(n for n in archive.namelist() if n.startswith(f"{BOARDS}int_{camera}") and n.endswith(".jpg")):
        flags = cv2.CALIB_CB_EXHAUSTIVE | cv2.CALIB_CB_ACCURACY
        good, corners = cv2.findChessboardCornersSB(read_image(archive, name), CORNERS, flags=flags)
        if good:
            found.append(corners.reshape(-1, 2) + 0.5)
    return found


def board_errors(camera: dict, corners: list[np.ndarray]) -> dict[str, float]:
    """RMS reprojection in pixels with focal length and centre free and each distortion hypothesis fixed.

    The boards of all four cameras were filmed with one camera (they agree on its centre within 3 pixels), so the
    intrinsics of the file cannot be compared with theirs; the coefficients of the lens type can.
    """
    board = np.zeros((CORNERS[0] * CORNERS[1], 3), np.float32)
    board[:, :2] = SQUARE * np.mgrid[: CORNERS[0], : CORNERS[1]].T.reshape(-1, 2)
    fixed = cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2 | cv2.CALIB_FIX_K3
    fixed |= cv2.CALIB_FIX_TANGENT_DIST

    def calibrate(views: list[np.ndarray], scale: float, flags: int) -> tuple[float, np.ndarray]:
        lens = np.append(np.multiply(camera["distortion"], scale), 0.0)
        views32 = [v.astype(np.float32) for v in views]
        error, K, *_ = cv2.calibrateCamera(
            [board] * len(views), views32, camera["size"], camera["K"].copy(), lens, flags=flags
        )
        return error, K

    steady = fixed | cv2.CALIB_FIX_FOCAL_LENGTH | cv2.CALIB_FIX_PRINCIPAL_POINT
    good = [v for v in corners if calibrate([v], 1.0, steady)[0] < 5.0]  # else the corners were found in a wrong order
    errors = {name: round(calibrate(good, scale, fixed)[0], 3) for name, scale in SCALES.items()}
    return {"pictures": len(good), **errors}


# -- stickers and features -------------------------------------------------------------------------------------------


def centroid(image: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
    """Centre of the bright spot at `seed`, pixel centres at +0.5; the metal plate beside it is not connected to it."""
    corner = np.subtract(seed, WINDOW)
    window = image[corner[1] : corner[1] + 2 * WINDOW + 1, corner[0] : corner[0] + 2 * WINDOW + 1].astype(float)
    ground = np.median(window)
    middle = window[WINDOW - 2 : WINDOW + 3, WINDOW - 2 : WINDOW + 3]
    weight = np.clip(window - ground - 0.4 * (middle.max() - ground), 0.0, None)
    _, labels = cv2.connectedComponents((weight > 0).astype(np.uint8), connectivity=4)
    peak = np.unravel_index(middle.argmax(), middle.shape)
    weight[labels != labels[peak[0] + WINDOW - 2, peak[1] + WINDOW - 2]] = 0.0
    rows, columns = np.indices(weight.shape)
    return corner + np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum() + 0.5


def shifted(cameras: dict[str, dict], offsets: np.ndarray) -> dict[str, dict]:
    """Cameras with their principal points moved by [4, 2] pixels."""
    moved = {}
    for (name, camera), offset in zip(cameras.items(), offsets, strict=True):
        K = camera["K"].copy()
        K[:2, 2] += offset
        moved[name] = {**camera, "K": K}
    return moved


def projected(camera: dict, point: np.ndarray, scale: float) -> np.ndarray:
    turn, _ = cv2.Rodrigues(camera["world_to_cam"][:3, :3])
    lens = np.multiply(camera["distortion"], scale)
    return cv2.projectPoints(point[None], turn, camera["world_to_cam"][:3, 3], camera["K"], lens)[0][0, 0]


def sticker_errors(cameras: dict, seen: dict[str, np.ndarray], scale: float, point: np.ndarray) -> np.ndarray:
    return np.concatenate([projected(cameras[name], point, scale) - pixel for name, pixel in seen.items()])


def triangulated(cameras: dict, seen: dict[str, np.ndarray], scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The point that fits best, and its errors [cameras, 2]."""
    best = least_squares(lambda p: sticker_errors(cameras, seen, scale, p), np.array([-1.0, 0.0, 0.0]))
    return best.x, best.fun.reshape(-1, 2)


def epipolar_distances(first: dict, second: dict, a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """Signed distance in pixels of each b [N, 2] to the epipolar line of each a [N, 2]."""
    rays = []
    for camera, pixels in ((first, a), (second, b)):
        lens = np.multiply(camera["distortion"], scale)
        straight = cv2.undistortPoints(pixels[:, None], camera["K"], lens)[:, 0]
        rays.append(np.c_[straight, np.ones(len(pixels))])
    T = second["world_to_cam"] @ np.linalg.inv(first["world_to_cam"])
    x, y, z = T[:3, 3]
    lines = rays[0] @ (np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ T[:3, :3]).T
    return (rays[1] * lines).sum(1) / np.linalg.norm(lines[:, :2], axis=1) * second["K"][0, 0]


def matched_features(images: list[np.ndarray], cameras: list[dict]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 2] of SIFT features of two cameras: the most alike in a wide band around the epipolar line."""
    sift = cv2.SIFT_create(20000, contrastThreshold=0.01, edgeThreshold=15)
    equalize = cv2.createCLAHE(3, (8, 8))
    pixels, looks = [], []
    for image in images:
        keys, descriptors = sift.detectAndCompute(equalize.apply(image), None)
        pixels.append(np.array([key.pt for key in keys]) + 0.5)
        looks.append(np.sqrt(descriptors / descriptors.sum(1, keepdims=True)))  # RootSIFT (Arandjelovic 2012)
    (a, b), (da, db) = pixels, looks
    best: dict[int, tuple[float, int]] = {}
    for i in range(len(a)):
        distance = epipolar_distances(*cameras, np.repeat(a[i : i + 1], len(b), 0), b, 1.0)
        near = np.nonzero(np.abs(distance) < EPIPOLAR_BAND)[0]
        if len(near) < 3:
            continue
        gap = np.linalg.norm(db[near] - da[i], axis=1)
        first, second = np.argsort(gap)[:2]
        j = int(near[first])
        if gap[first] < 0.75 * gap[second] and gap[first] < best.get(j, (np.inf, 0))[0]:
            best[j] = (gap[first], i)
    return a[[i for _, i in best.values()]], b[list(best)]


def fitted_offsets(cameras: dict, stickers: list[dict], features: tuple, scale: float) -> np.ndarray:
    """Principal-point offsets [4, 2] that stickers and features (of the first two cameras) agree on best."""
    a, b = features

    def residuals(values: np.ndarray) -> np.ndarray:
        moved = shifted(cameras, values[:8].reshape(4, 2))
        first, second = list(moved.values())[:2]
        distance = epipolar_distances(first, second, a, b, scale)
        robust = np.sign(distance) * np.sqrt(2 * (np.sqrt(1 + distance**2) - 1))
        points = values[8:].reshape(-1, 3)
        errors = [sticker_errors(moved, seen, scale, p) for seen, p in zip(stickers, points, strict=True)]
        return np.concatenate([*errors, FEATURE_WEIGHT * robust, OFFSET_PRIOR * values[:8]])

    start = [np.zeros(8)] + [triangulated(cameras, seen, scale)[0] for seen in stickers]
    return least_squares(residuals, np.concatenate(start)).x[:8].reshape(4, 2)


def rms(errors: list[np.ndarray]) -> float:
    return round(float(np.sqrt((np.concatenate(errors) ** 2).sum(1).mean())), 2)


def compare(cameras: dict, stickers: list[dict], features: tuple, scale: float) -> dict:
    """Sticker and feature errors with the principal points of the file, and with fitted ones."""
    a, b = features
    offsets = fitted_offsets(cameras, stickers, features, scale)
    left_out = []
    for i, seen in enumerate(stickers):
        others = fitted_offsets(cameras, stickers[:i] + stickers[i + 1 :], features, scale)
        left_out.append(triangulated(shifted(cameras, others), seen, scale)[1])
    half = np.arange(len(a)) % 2 == 0
    from_half = shifted(cameras, fitted_offsets(cameras, stickers, (a[half], b[half]), scale))
    moved = shifted(cameras, offsets)

    def off_line(found: dict) -> float:
        first, second = list(found.values())[:2]
        return round(float(np.median(np.abs(epipolar_distances(first, second, a[~half], b[~half], scale)))), 2)

    solved = [triangulated(moved, seen, scale) for seen in stickers]
    return {
        "stickers rms px, file": rms([triangulated(cameras, seen, scale)[1] for seen in stickers]),
        "stickers rms px, offset": rms([errors for _, errors in solved]),
        "stickers rms px, offset fitted without the sticker": rms(left_out),
        "features median px, file": off_line(cameras),
        "features median px, offset fitted to the other half": off_line(from_half),
        "heights of the stickers mm": [round(1000 * float(point[2]), 1) for point, _ in solved],
        "offsets": {n: [round(float(v), 1) for v in o] for n, o in zip(cameras, offsets, strict=True)},
    }


def main(config: Config) -> None:
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        wheel = checked_wheel(config.wheel if config.wheel is not None else download_wheel(Path(folder)))
        with zipfile.ZipFile(wheel) as archive:
            cameras = {c["name"]: c for c in read_calibration(archive.read(CALIBRATION).decode())}
            boards = {name: board_errors(camera, board_corners(archive, name)) for name, camera in cameras.items()}
            stills = {name: read_image(archive, STILLS.format(name=name)) for name in cameras}
    stickers = [{n: centroid(stills[n], seed) for n, seed in seeds.items()} for seeds in STICKERS.values()]
    pair = list(cameras.values())[:2]
    a, b = matched_features(list(stills.values())[:2], pair)
    near = np.abs(epipolar_distances(*pair, a, b, 1.0)) < EPIPOLAR_INLIER
    report = {
        "chessboards, rms px": boards,
        "features": f"{near.sum()} of {len(a)} matches of cam01 and cam02 within {EPIPOLAR_INLIER:g} px",
        **{name: compare(cameras, stickers, (a[near], b[near]), scale) for name, scale in reversed(SCALES.items())},
    }
    if config.json:
        sys.stdout.write(json_format.dumps(report) + "\n")
        return
    for name, values in report.items():
        print(name if isinstance(values, dict) else f"{name}: {values}")
        for key, value in values.items() if isinstance(values, dict) else ():
            print(f"  {key}: {value}")


if __name__ == "__main__":
    main(tyro.cli(Config))
