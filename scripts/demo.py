"""Render a small procedural dynamic scene: `make demo`.

Objects made of Gaussians turn and bounce over a textured ground while the camera swings around them. Writes
`scene.mp4` and `contact_sheet.png` (colour, depth, alpha and object labels of some frames). The labels are feature
channels of the same rendering pass. The motion is periodic, so the video loops.

N Gaussians, T frames, H W pixels.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import av
import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from renderers import Cameras, Gaussians, Rendering, rasterize

SUN = (0.45, 0.80, 0.40)  # direction to the light; y is up in this scene's world
SKY_TOP, SKY_HORIZON = (0.30, 0.50, 0.80), (0.86, 0.91, 0.96)
LABEL_COLORS = (
    (0.35, 0.35, 0.38),
    (0.95, 0.55, 0.15),
    (0.20, 0.65, 0.90),
    (0.90, 0.25, 0.35),
    (0.45, 0.80, 0.35),
    (0.70, 0.45, 0.90),
)
SHEET_FRAMES = 5


@dataclass(frozen=True)
class Config:
    """Render a small procedural dynamic scene to a video and a contact sheet."""

    out: Path = Path("demo")
    """Folder to write to."""
    frames: int = 60
    """Number of frames; the motion fills them once."""
    width: int = 640
    """Pixels."""
    height: int = 360
    """Pixels."""
    backend: str = "cpu"
    """cpu, torch (slow) or gsplat (needs CUDA)."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, got {self.frames}")
        if min(self.width, self.height) < 2 or self.width % 2 or self.height % 2:  # yuv420p halves the chroma planes
            raise ValueError(f"width and height must be even and at least 2, got {self.width}x{self.height}")


@dataclass(frozen=True)
class Surface:
    """Splats on one object's surface, in its own coordinates."""

    points: Tensor  # [N, 3]
    normals: Tensor  # [N, 3] unit
    colors: Tensor  # [N, 3] RGB before lighting
    spacing: float  # between neighbours, scene units


@dataclass(frozen=True)
class Pose:
    """Where an object is at one moment."""

    rotation: Tensor  # [3, 3]
    center: Tensor  # [3]
    shadow_radius: float  # of the soft shadow on the ground below; 0 casts none


def main(config: Config) -> None:
    config.out.mkdir(parents=True, exist_ok=True)
    surfaces = build_surfaces()
    count = sum(len(surface.points) for surface in surfaces)
    print(f"Rendering {count} Gaussians, {config.frames} frames of {config.width}x{config.height} ...")
    renderings, seconds = [], []
    for index in range(config.frames):
        rendering, elapsed = render_frame(surfaces, index / config.frames, config)
        renderings.append(rendering)
        seconds.append(elapsed)
    images = [over_sky(rendering) for rendering in renderings]
    video, sheet = config.out / "scene.mp4", config.out / "contact_sheet.png"
    write_video(video, images, fps=24)
    shown = [round(step * config.frames / SHEET_FRAMES) for step in range(min(SHEET_FRAMES, config.frames))]
    cv2.imwrite(str(sheet), contact_sheet([renderings[i] for i in shown], [images[i] for i in shown])[..., ::-1])
    print(f"renderers.rasterize, backend {config.backend}: {1000 * statistics.median(seconds):.0f} ms a frame (median)")
    print(f"video          {video.resolve()}")
    print(f"contact sheet  {sheet.resolve()}")


def render_frame(surfaces: list[Surface], phase: float, config: Config) -> tuple[Rendering, float]:
    """One frame, and the seconds that rasterizing it took."""
    gaussians, labels = gaussians_at(surfaces, phase)
    cameras = camera_at(phase, config.width, config.height)
    if config.backend == "gsplat":
        gaussians = replace(gaussians, **{name: x.cuda() for name, x in vars(gaussians).items() if x is not None})
        cameras = replace(cameras, world_to_cam=cameras.world_to_cam.cuda(), K=cameras.K.cuda())
        labels = labels.cuda()
    start = time.perf_counter()
    rendering = rasterize(gaussians, cameras, features=labels, backend=config.backend)
    if rendering.image.is_cuda:
        torch.cuda.synchronize()
    return rendering, time.perf_counter() - start


# ---- the objects --------------------------------------------------------------------------------------------------


def build_surfaces() -> list[Surface]:
    """Ground, trefoil knot, cube and three balls; `poses_at` uses the same order."""
    return [
        ground(),
        knot(),
        cube(),
        *(ball(radius, torch.tensor(LABEL_COLORS[3 + index])) for index, radius in enumerate((0.34, 0.27, 0.21))),
    ]


def ground(radius: float = 4.2, spacing: float = 0.052) -> Surface:
    """A disc in the plane y = 0 with soft checks, rings and a grain."""
    side = torch.arange(-radius, radius, spacing)
    x, z = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    inside = x**2 + z**2 < radius**2
    x, z = x[inside], z[inside]
    jitter = torch.rand(2, len(x), generator=torch.Generator().manual_seed(0)) - 0.5
    x, z = x + jitter[0] * spacing * 0.4, z + jitter[1] * spacing * 0.4
    checks = torch.sigmoid(12 * torch.sin(x * 2.6) * torch.sin(z * 2.6))[:, None]
    rings = 0.5 + 0.5 * torch.cos((x**2 + z**2).sqrt() * 9)[:, None]
    grain = 0.06 * jitter[:1].T
    light, dark = torch.tensor([0.80, 0.76, 0.68]), torch.tensor([0.42, 0.47, 0.50])
    colors = checks * light + (1 - checks) * dark + 0.05 * rings + grain
    zero = torch.zeros_like(x)
    return Surface(torch.stack([x, zero, z], 1), torch.tensor([0.0, 1.0, 0.0]).expand(len(x), 3), colors, spacing)


def knot(tube: float = 0.20, around: int = 32, along: int = 360) -> Surface:
    """A tube around a trefoil knot, with a hue that runs along it and stripes across."""
    u = torch.arange(along) * 2 * math.pi / along
    center = trefoil(u)  # [along, 3]
    tangent = torch.nn.functional.normalize(trefoil(u + 1e-3) - trefoil(u - 1e-3), dim=-1)
    side = torch.nn.functional.normalize(torch.linalg.cross(tangent, torch.tensor([0.0, 0.0, 1.0]).expand_as(tangent)))
    up = torch.linalg.cross(side, tangent)
    v = (torch.arange(around) * 2 * math.pi / around)[None, :, None]
    normals = side[:, None] * v.cos() + up[:, None] * v.sin()  # [along, around, 3]
    points = center[:, None] + tube * normals
    hue = (u / (2 * math.pi))[:, None, None] + torch.tensor([0.0, 1 / 3, 2 / 3])
    stripe = 0.82 + 0.18 * torch.sign(torch.sin(24 * u[:, None, None] + 2 * v))
    colors = (0.55 + 0.42 * torch.cos(2 * math.pi * hue)) * stripe
    return Surface(points.reshape(-1, 3), normals.reshape(-1, 3), colors.reshape(-1, 3), 2 * math.pi * tube / around)


def trefoil(u: Tensor) -> Tensor:  # [U] -> [U, 3]
    x, y, z = u.sin() + 2 * (2 * u).sin(), u.cos() - 2 * (2 * u).cos(), -(3 * u).sin()
    return 0.32 * torch.stack([x, y, z], -1)


def cube(half: float = 0.42, side: int = 28) -> Surface:
    """Six faces, each of its own colour with a lighter inner square."""
    step = 2 * half / side
    axis = (torch.arange(side) + 0.5) * step - half
    a, b = (x.flatten() for x in torch.meshgrid(axis, axis, indexing="ij"))
    inner = (torch.maximum(a.abs(), b.abs()) < 0.6 * half)[:, None]
    points, normals, colors = [], [], []
    for face in range(6):
        sign = 1.0 if face % 2 else -1.0
        flat = torch.stack([torch.full_like(a, sign * half), a, b], 1)
        points.append(flat.roll(face // 2, 1))
        normals.append(torch.tensor([sign, 0.0, 0.0]).roll(face // 2).expand_as(flat))
        base = 0.5 + 0.35 * torch.cos(2 * math.pi * (face / 6 + torch.tensor([0.55, 0.85, 0.15])))
        colors.append(torch.where(inner, 0.35 + 0.65 * base, base))
    return Surface(torch.cat(points), torch.cat(normals), torch.cat(colors), step)


def ball(radius: float, color: Tensor, count: int = 2600) -> Surface:
    """A Fibonacci sphere with two pale bands, which make its spin visible."""
    index = torch.arange(count) + 0.5
    y = 1 - 2 * index / count
    turn = index * math.pi * (3 - math.sqrt(5))  # golden angle
    ring = (1 - y**2).sqrt()
    normals = torch.stack([ring * turn.cos(), y, ring * turn.sin()], 1)
    band = ((normals[:, :1] * 1.2 + normals[:, 1:2] * 0.5).abs() * 3 % 1 < 0.3).float()
    return Surface(normals * radius, normals, color * (1 - band) + 0.93 * band, radius * math.sqrt(4 * math.pi / count))


# ---- motion and light ---------------------------------------------------------------------------------------------


def poses_at(phase: float) -> list[Pose]:
    """The objects' poses; every motion has a whole number of periods in phase 0 to 1."""
    turn = 2 * math.pi * phase
    poses = [
        Pose(torch.eye(3), torch.zeros(3), 0.0),
        Pose(rotation("y", turn) @ rotation("x", 0.5), torch.tensor([0.0, 1.25 + 0.08 * math.sin(turn), 0.0]), 0.95),
        Pose(
            rotation("y", -turn) @ rotation("x", math.atan(math.sqrt(2))) @ rotation("z", math.pi / 4),
            torch.tensor([-1.75, 0.95, 0.55]),
            0.5,
        ),
    ]
    for index, radius in enumerate((0.34, 0.27, 0.21)):
        beat = (2 * phase + index / 3) % 1  # two bounces a loop
        height = radius + 4 * (1.05 - 0.2 * index) * beat * (1 - beat)  # a parabola between two touches
        center = torch.tensor([1.25 + 0.45 * index, height, 1.35 - 0.75 * index])
        poses.append(Pose(rotation("x", turn) @ rotation("y", 0.4 * index), center, radius))
    return poses


def rotation(axis: str, angle: float) -> Tensor:  # [3, 3]
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    R = torch.eye(3)
    R[i, i] = R[j, j] = math.cos(angle)
    R[j, i] = math.sin(angle)
    R[i, j] = -R[j, i]
    return R


def gaussians_at(surfaces: list[Surface], phase: float) -> tuple[Gaussians, Tensor]:
    """All objects at one moment, lit, and their label colours [N, 3]."""
    sun = torch.nn.functional.normalize(torch.tensor(SUN), dim=0)
    poses = poses_at(phase)
    means, normals, colors, scales, labels = [], [], [], [], []
    for index, (surface, pose) in enumerate(zip(surfaces, poses, strict=True)):
        points = surface.points @ pose.rotation.T + pose.center
        normal = surface.normals @ pose.rotation.T
        light = 0.52 + 0.16 * normal[:, 1:2] + 0.60 * (normal @ sun)[:, None].clamp_min(0)
        if index == 0:
            light = light * shadows(points, poses, sun)
        means.append(points)
        normals.append(normal)
        colors.append(surface.colors * light)
        # 0.66 of the spacing: neighbours close the surface without blurring its texture; a tenth of it along the normal
        scales.append(surface.spacing * torch.tensor([0.66, 0.66, 0.07]).expand_as(points))
        labels.append(torch.tensor(LABEL_COLORS[index]).expand_as(points))
    return (
        Gaussians(
            means=torch.cat(means),
            quats=facing(torch.cat(normals)),
            log_scales=torch.cat(scales).log(),
            logit_opacities=torch.full((sum(map(len, means)),), 4.0),
            colors=torch.cat(colors).clamp(0, 1),
        ),
        torch.cat(labels).contiguous(),
    )


def shadows(points: Tensor, poses: list[Pose], sun: Tensor) -> Tensor:
    """Fraction of light that reaches each ground point, [N, 1]: a soft blob where an object's centre projects."""
    lit = torch.ones(len(points), 1)
    for pose in poses:
        if pose.shadow_radius > 0:
            foot = pose.center - sun * (pose.center[1] / sun[1])
            distance = (points - foot).square().sum(1, keepdim=True)
            lit = lit * (1 - 0.62 * torch.exp(-0.5 * (distance / (0.75 * pose.shadow_radius) ** 2) ** 2))
    return lit


def facing(normals: Tensor) -> Tensor:
    """Quaternions [N, 4] that turn the z axis to `normals`: half-way vectors, (1 + z.n, z x n)."""
    x, y, z = normals.unbind(1)
    quats = torch.stack([1 + z, -y, x, torch.zeros_like(x)], 1)
    opposite = torch.tensor([0.0, 1.0, 0.0, 0.0])  # n = -z: half a turn about x
    return torch.where((1 + z < 1e-6)[:, None], opposite, torch.nn.functional.normalize(quats, dim=1))


def camera_at(phase: float, width: int, height: int) -> Cameras:
    """A camera on an arc around the scene that looks at a point above the ground's centre."""
    azimuth = math.radians(35) * math.sin(2 * math.pi * phase)
    distance, target = 5.4, torch.tensor([0.0, 0.8, 0.0])
    eye = torch.tensor([distance * math.sin(azimuth), 2.3, distance * math.cos(azimuth)])
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 1.0, 0.0])), dim=0)
    R_cam_world = torch.stack(
        [right, torch.linalg.cross(forward, right), forward]
    )  # OpenCV: x right, y down, z forward
    T_cam_world = torch.eye(4)
    T_cam_world[:3, :3] = R_cam_world
    T_cam_world[:3, 3] = -R_cam_world @ eye
    focal = 1.35 * height
    K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    return Cameras(T_cam_world[None], K[None], width, height)


# ---- pictures -----------------------------------------------------------------------------------------------------


def over_sky(rendering: Rendering) -> NDArray[np.uint8]:
    """The colour image over a vertical gradient, [H, W, 3]."""
    blend = torch.linspace(0, 1, rendering.image.shape[1])[:, None, None] ** 0.8
    sky = (1 - blend) * torch.tensor(SKY_TOP) + blend * torch.tensor(SKY_HORIZON)
    return to_bytes(rendering.image[0].cpu() + (1 - rendering.alpha[0, ..., None].cpu()) * sky)


def to_bytes(image: Tensor) -> NDArray[np.uint8]:
    return (image.clamp(0, 1) * 255).round().byte().numpy()


def depth_colors(depth: Tensor) -> NDArray[np.uint8]:
    """Near is warm, far is cold, nothing is black. [H, W] -> [H, W, 3]."""
    seen = depth > 0
    if not seen.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = depth[seen].min(), depth[seen].max()
    inverse = (1 / depth.clamp_min(near) - 1 / far) / (1 / near - 1 / far).clamp_min(1e-6)
    colors = cv2.applyColorMap(to_bytes(inverse), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(seen.numpy()[..., None], colors, 0).astype(np.uint8)


def contact_sheet(renderings: list[Rendering], images: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """One row a frame, one column a signal."""
    rows = []
    for rendering, image in zip(renderings, images, strict=True):
        assert rendering.features is not None
        alpha = to_bytes(rendering.alpha[0].cpu())[..., None].repeat(3, 2)
        panels = [image, depth_colors(rendering.depth[0].cpu()), alpha, to_bytes(rendering.features[0].cpu())]
        rows.append(np.concatenate([cv2.resize(panel, None, fx=0.5, fy=0.5, interpolation=3) for panel in panels], 1))
    sheet = np.concatenate(rows)
    bar = np.full((28, sheet.shape[1], 3), 24, np.uint8)
    for column, title in enumerate(("colour", "depth (near = warm)", "alpha", "object labels")):
        place = (column * sheet.shape[1] // 4 + 8, 20)
        cv2.putText(bar, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (230, 230, 230), 1, cv2.LINE_AA)
    return np.concatenate([bar, sheet])


def write_video(path: Path, images: list[NDArray[np.uint8]], fps: int) -> None:
    """H.264 in yuv420p, which every browser plays; sides must be even."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    main(tyro.cli(Config))
