"""Camera paths: key frames over the seconds of a clip, what lies between them, generators. Files: `scene4d.path_files`.

Positions are cubic Hermite curves in time, orientations cumulative cubic Bezier curves (Kim, Kim and Shin 1995): both
pass through the keys and have a continuous velocity. The velocity at a key is that of the parabola through it and its
neighbours, at most three times the slower of the two secants (Fritsch and Carlson 1980, for the norm): where two keys
are equal the camera stands still between them, and uneven spacing makes no loops.

T key frames, C cameras, n times. All tensors are float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from renderers import Cameras
from renderers.checks import MAX_IMAGE_SIDE, ROTATION_TOLERANCE
from renderers.quaternions import conjugate, exp_quat, log_quat, multiply, rotate, unit

EASINGS = ("linear", "smooth")
MAX_SPEEDUP = 3.0  # of a key's velocity over its slower secant: beyond it a cubic may overshoot (Fritsch, Carlson)
PARALLEL = 1e-6  # squared sine below which two optical axes have no nearest point


@dataclass(frozen=True, eq=False)
class CameraPath:
    """Key frames of a camera. Raises ValueError."""

    times: Tensor  # [T] seconds of the clip, increasing
    world_to_cam: Tensor  # [T, 4, 4]
    K: Tensor  # [T, 3, 3] in pixels of an image of width x height
    width: int
    height: int
    scene_times: Tensor | None = None  # [T] seconds of the scene at each key; None: the scene runs with the clip
    closed: bool = False  # the last key is the first again: the velocity there is continuous too
    easing: str = "linear"  # or "smooth": the whole path starts and ends slowly

    def __post_init__(self) -> None:
        _check_path(self)

    def __len__(self) -> int:
        return len(self.times)

    @property
    def duration(self) -> float:
        """Seconds from the first key to the last."""
        return float(self.times[-1] - self.times[0])


def cameras_at(path: CameraPath, times: Tensor) -> Cameras:
    """The camera at `times` [n], seconds of the clip. Before and after its keys a path stands still; a closed one
    repeats."""
    t = _eased(path, times)
    key, h, u = _place(path, t)
    at = path.world_to_cam
    q_keys = torch.from_numpy(Rotation.from_matrix(at[:, :3, :3].mT.numpy()).as_quat(scalar_first=True))
    centers = -(at[:, :3, :3].mT @ at[:, :3, 3:])[..., 0]
    position = _curve(path, centers, key, h, u)
    R_cam_world = _matrices(conjugate(_turned(path, unit(q_keys), key, h, u)))
    poses = torch.eye(4, dtype=torch.float64).repeat(len(times), 1, 1)
    poses[:, :3, :3] = R_cam_world
    poses[:, :3, 3] = -(R_cam_world @ position[..., None])[..., 0]
    # logarithms: the focal length stays positive
    focal = _curve(path, path.K[:, [0, 1], [0, 1]].log(), key, h, u).exp()
    center = _curve(path, path.K[:, :2, 2], key, h, u)
    return Cameras(poses, _intrinsics(focal, center), path.width, path.height)


def scene_times_at(path: CameraPath, times: Tensor) -> Tensor | None:
    """Seconds of the scene [n] at `times` of the clip, straight lines between the keys; None if the path has none."""
    if path.scene_times is None:
        return None
    return torch.from_numpy(np.interp(_eased(path, times).numpy(), path.times.numpy(), path.scene_times.numpy()))


def frame_times(path: CameraPath, fps: float) -> Tensor:
    """Times [n] of the clip's frames: from the first key every 1/fps, the last key included unless closed."""
    if not 0 < fps < math.inf:
        raise ValueError(f"fps must be above 0, got {fps}")
    steps = path.duration * fps
    count = max(math.ceil(steps - 1e-6), 1) if path.closed else math.floor(steps + 1e-6) + 1
    return path.times[0] + torch.arange(count, dtype=torch.float64) / fps


def resized(cameras: Cameras, width: int, height: int) -> Cameras:
    """The same cameras with images of another size: the vertical field of view stays, the sides are cut or widened."""
    scale = height / cameras.height
    K = cameras.K.clone()
    K[:, :2] *= scale
    K[:, 0, 2] += (width - cameras.width * scale) / 2
    return Cameras(cameras.world_to_cam, K, width, height)


def between(a: Cameras, b: Cameras, share: float) -> Cameras:
    """Cameras on the way from `a` (share 0) to `b` (share 1), in the size of `a`.

    The pose goes along an arc around the point that both look at: the one nearest to both optical axes keeps its place
    in the picture, on the straight line between its places in the two cameras. Without such a point (parallel axes,
    or behind a camera) the centre goes straight. K is blended.

    Raises ValueError: `share` is not in [0, 1], or the numbers of cameras differ.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share}")
    if len(a) != len(b):
        raise ValueError(f"b must hold as many cameras as a ({len(a)}), got {len(b)}")
    b = resized(b, a.width, a.height)
    first, second = a.world_to_cam.double(), b.world_to_cam.double()
    pivot = _seen_by_both(first, second)
    qa, qb = _quats(first), _quats(second)
    R = _matrices(multiply(qa, exp_quat(share * log_quat(multiply(conjugate(qa), qb)))))
    in_a = (first[:, :3, :3] @ pivot[..., None])[..., 0] + first[:, :3, 3]
    in_b = (second[:, :3, :3] @ pivot[..., None])[..., 0] + second[:, :3, 3]
    met = (in_a[:, 2] > 0) & (in_b[:, 2] > 0)
    around = torch.lerp(in_a, in_b, share) - (R @ pivot[..., None])[..., 0]
    straight = -(R @ torch.lerp(_centers(first), _centers(second), share)[..., None])[..., 0]
    poses = first.clone()
    poses[:, :3, :3], poses[:, :3, 3] = R, torch.where(met[:, None], around, straight)
    return Cameras(poses, torch.lerp(a.K.double(), b.K.double(), share), a.width, a.height)


# -- generators --------------------------------------------------------------------------------------------------------


def orbit(
    target: Tensor,  # [3] world
    radius: float,
    like: Cameras,
    *,
    up: Tensor,  # [3] world, any length
    elevation: float = 20.0,  # degrees above the plane through the target
    turns: float = 1.0,
    seconds: float = 8.0,
) -> CameraPath:
    """A circle around `target` that starts on the side of `like` (one camera, whose K and size it takes).

    Raises ValueError: `radius` or `seconds` is not above 0, `turns` is 0, `up` is 0 or the elevation a pole.
    """
    _above_zero(radius=radius, seconds=seconds)
    if not (math.isfinite(turns) and turns) or not abs(elevation) < 90 or not float(up.norm()) > 0:
        rule = "turns must not be 0, elevation must be between -90 and 90, up must not be 0"
        raise ValueError(f"{rule}, got {turns}, {elevation}, {up.tolist()}")
    target, up = target.double(), torch.nn.functional.normalize(up.double(), dim=0)
    side = like.centers[0].double() - target
    side = side - (side @ up) * up
    if float(side.norm()) < 1e-9 * radius:  # like stands on the axis: any side will do
        side = torch.linalg.cross(up, torch.eye(3, dtype=torch.float64)[up.abs().argmin()])
    side = torch.nn.functional.normalize(side, dim=0)
    ahead = torch.linalg.cross(up, side)
    count = max(math.ceil(abs(turns) * 16), 4)
    level, lift = math.cos(math.radians(elevation)), math.sin(math.radians(elevation))
    poses = []
    for k in range(count + 1):
        angle = 2 * math.pi * turns * k / count
        direction = level * (math.cos(angle) * side + math.sin(angle) * ahead) + lift * up
        poses.append(look_at(target + radius * direction, target, up))
    return _evenly(torch.stack(poses), like, seconds, closed=float(turns).is_integer())


def arc(a: Cameras, b: Cameras, seconds: float = 4.0) -> CameraPath:
    """From camera `a` to camera `b` as `between` goes, slowly at both ends."""
    _above_zero(seconds=seconds)
    keys = [between(a, b, k / 8) for k in range(9)]
    times = torch.linspace(0, seconds, 9, dtype=torch.float64)
    poses, K = torch.cat([key.world_to_cam for key in keys]), torch.cat([key.K for key in keys])
    return CameraPath(times, poses, K, a.width, a.height, easing="smooth")


def wiggle(camera: Cameras, distance: float, amplitude: float = 0.05, seconds: float = 4.0) -> CameraPath:
    """A flat figure of eight through `camera`, which keeps the point `distance` ahead of it in its place.

    `amplitude` is the largest step aside, as a share of `distance`. Raises ValueError: a number is not above 0.
    """
    _above_zero(distance=distance, amplitude=amplitude, seconds=seconds)
    pose = camera.world_to_cam[0].double()
    pivot = torch.tensor([0.0, 0.0, distance], dtype=torch.float64)
    poses = []
    for k in range(33):
        angle = 2 * math.pi * k / 32
        eye = amplitude * distance * torch.tensor([math.sin(angle), 0.4 * math.sin(2 * angle), 0.0]).double()
        turned = look_at(eye, pivot, torch.tensor([0.0, -1.0, 0.0]).double())  # y is down in the camera
        poses.append(turned @ pose)
    poses[-1] = poses[0]
    return _evenly(torch.stack(poses), camera, seconds, closed=True)


def look_at(eye: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """world_to_cam [4, 4] at `eye` that sees `target` in its axis and `up` upwards in its picture; all [3] float64."""
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
    R_cam_world = torch.stack([right, torch.linalg.cross(forward, right), forward])
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = R_cam_world, -R_cam_world @ eye
    return pose


def _evenly(poses: Tensor, like: Cameras, seconds: float, closed: bool) -> CameraPath:
    times = torch.linspace(0, seconds, len(poses), dtype=torch.float64)
    K = like.K[:1].double().expand(len(poses), 3, 3)
    return CameraPath(times, poses, K, like.width, like.height, closed=closed)


def _above_zero(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"{name} must be above 0, got {number}")


# -- curves ------------------------------------------------------------------------------------------------------------


def _eased(path: CameraPath, times: Tensor) -> Tensor:
    """Times of the clip as times of the curve, within its keys."""
    start, length = path.times[0], path.duration
    if length == 0:
        return start.expand(len(times))
    share = (times.double() - start) / length
    share = share - share.floor() * (share != 1) if path.closed else share.clamp(0, 1)
    return start + length * (share * share * (3 - 2 * share) if path.easing == "smooth" else share)


def _place(path: CameraPath, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the key before t, length of its interval in seconds, and the share of it that has passed."""
    if len(path) == 1:
        key = torch.zeros(len(t), dtype=torch.int64)
        return key, torch.ones_like(t), torch.zeros_like(t)
    key = (torch.searchsorted(path.times, t, right=True) - 1).clamp(0, len(path) - 2)
    h = path.times.diff()[key]
    return key, h, ((t - path.times[key]) / h).clamp(0, 1)


def _velocities(path: CameraPath, secants: Tensor) -> Tensor:
    """At the keys [T, D], from those of the intervals [T - 1, D]."""
    h = path.times.diff()
    if path.closed:
        before, after = torch.cat([secants[-1:], secants]), torch.cat([secants, secants[:1]])
        h_before, h_after = torch.cat([h[-1:], h]), torch.cat([h, h[:1]])
    else:  # the ends have one neighbour: the secant to it
        before, after = torch.cat([secants[:1], secants]), torch.cat([secants, secants[-1:]])
        h_before, h_after = torch.cat([h[:1], h]), torch.cat([h, h[-1:]])
    parabola = (h_after[:, None] * before + h_before[:, None] * after) / (h_before + h_after)[:, None]
    limit = MAX_SPEEDUP * torch.minimum(before.norm(dim=1), after.norm(dim=1))
    return parabola * (limit / parabola.norm(dim=1).clamp_min(1e-300)).clamp_max(1.0)[:, None]


def _curve(path: CameraPath, values: Tensor, key: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """Values [T, D] of the keys at the places: [n, D]."""
    if len(path) == 1:
        return values[key]
    v = _velocities(path, values.diff(dim=0) / path.times.diff()[:, None])
    u, h = u[:, None], h[:, None]
    step = values[key + 1] - values[key]
    bend = (1 - u) * (h * v[key] - step) - u * (h * v[key + 1] - step)
    return values[key] + u * step + u * (1 - u) * bend


def _turned(path: CameraPath, q: Tensor, key: Tensor, h: Tensor, u: Tensor) -> Tensor:
    """Unit quaternions [T, 4] of the keys at the places: [n, 4]. Velocities are half rotation vectors in the body."""
    if len(path) == 1:
        return q[key]
    v = _velocities(path, log_quat(multiply(conjugate(q[:-1]), q[1:])) / path.times.diff()[:, None])
    u, third = u[:, None], h[:, None] / 3
    first, last = third * v[key], third * v[key + 1]
    rest = multiply(multiply(exp_quat(-first), conjugate(q[key])), multiply(q[key + 1], exp_quat(-last)))
    turn = multiply(q[key], exp_quat((1 - (1 - u) ** 3) * first))
    turn = multiply(turn, exp_quat((3 - 2 * u) * u**2 * log_quat(rest)))
    return multiply(turn, exp_quat(u**3 * last))


def _quats(world_to_cam: Tensor) -> Tensor:
    """Unit quaternions [C, 4] of R_cam_world."""
    return torch.from_numpy(Rotation.from_matrix(world_to_cam[:, :3, :3].numpy()).as_quat(scalar_first=True))


def _matrices(q: Tensor) -> Tensor:
    """[..., 3, 3] of unit quaternions."""
    axes = torch.eye(3, dtype=q.dtype)
    return torch.stack([rotate(q, axis.expand(*q.shape[:-1], 3)) for axis in axes], -1)


def _centers(world_to_cam: Tensor) -> Tensor:
    return -(world_to_cam[:, :3, :3].mT @ world_to_cam[:, :3, 3:])[..., 0]


def _seen_by_both(a: Tensor, b: Tensor) -> Tensor:
    """The point [C, 3] midway between the nearest points of the optical axes of poses [C, 4, 4]; behind both cameras
    where the axes are parallel."""
    eye_a, eye_b, ray_a, ray_b = _centers(a), _centers(b), a[:, 2, :3], b[:, 2, :3]
    base, cosine = eye_b - eye_a, (ray_a * ray_b).sum(1)
    sine2 = 1 - cosine**2
    parallel = sine2 < PARALLEL
    sine2 = sine2.masked_fill(parallel, 1.0)
    along_a, along_b = (base * ray_a).sum(1), (base * ray_b).sum(1)
    s, t = (along_a - cosine * along_b) / sine2, (cosine * along_a - along_b) / sine2
    point = (eye_a + s[:, None] * ray_a + eye_b + t[:, None] * ray_b) / 2
    behind = eye_a - (1 + base.norm(dim=1))[:, None] * ray_a
    return torch.where(parallel[:, None], behind, point)


def _intrinsics(focal: Tensor, center: Tensor) -> Tensor:
    K = torch.zeros(len(focal), 3, 3, dtype=torch.float64)
    K[:, [0, 1], [0, 1]], K[:, :2, 2], K[:, 2, 2] = focal, center, 1.0
    return K


def _check_path(path: CameraPath) -> None:
    T = len(path.times)
    shapes = {"times": (T,), "world_to_cam": (T, 4, 4), "K": (T, 3, 3), "scene_times": (T,)}
    for name, shape in shapes.items():
        tensor: Tensor | None = getattr(path, name)
        if tensor is None:
            continue
        if tensor.dtype != torch.float64 or tensor.shape != shape or not bool(torch.isfinite(tensor).all()):
            rule = f"be finite float64 {list(shape)}"
            raise ValueError(f"{name} must {rule}, got {tensor.dtype} {list(tensor.shape)}")
    if T == 0 or not bool((path.times.diff() > 0).all()):
        raise ValueError(f"times must increase and be at least one, got {path.times.tolist()[:4]}")
    for name, side in (("width", path.width), ("height", path.height)):
        if type(side) is not int or not 1 <= side <= MAX_IMAGE_SIDE:
            raise ValueError(f"{name} must be 1 to {MAX_IMAGE_SIDE}, got {side!r:.20}")
    _check_matrices(path)
    if path.easing not in EASINGS:
        raise ValueError(f"easing must be {' or '.join(EASINGS)}, got {path.easing!r:.40}")
    if path.closed and not torch.allclose(path.world_to_cam[0], path.world_to_cam[-1], atol=1e-6, rtol=1e-6):
        raise ValueError("a closed path must end with the pose of its first key, got another")


def _check_matrices(path: CameraPath) -> None:
    R, bottom = path.world_to_cam[:, :3, :3], torch.tensor([0.0, 0, 0, 1]).double()
    rigid = (R @ R.mT - torch.eye(3).double()).abs().amax((1, 2)) <= ROTATION_TOLERANCE
    rigid &= (path.world_to_cam[:, 3] == bottom).all(1) & (torch.linalg.det(R) > 0)
    if not bool(rigid.all()):
        raise ValueError(f"world_to_cam must be rigid, got another matrix at key {int((~rigid).nonzero()[0])}")
    plain = (path.K[:, [0, 1], [0, 1]] > 0).all(1) & (path.K[:, [0, 1, 2, 2], [1, 0, 0, 1]] == 0).all(1)
    if not bool((plain & (path.K[:, 2, 2] == 1)).all()):
        raise ValueError("K must be a pinhole matrix without skew, with focal lengths above 0")
