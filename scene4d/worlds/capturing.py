"""`capture_world`: a world as an ordinary capture folder (docs/captures.md), with its truth beside it.

C cameras, T frames, N points, O objects.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plyfile import PlyData, PlyElement

from renderers import Cameras
from scene4d.worlds.correspondence import points_at, sample_points, tracks
from scene4d.worlds.motions import poses_at
from scene4d.worlds.noise import Noise, noisy_depth, noisy_mask, noisy_poses
from scene4d.worlds.rigs import Rig, held_out_frames
from scene4d.worlds.serial import from_json, to_json
from scene4d.worlds.shapes import bounding_radius
from scene4d.worlds.tracing import surface_colors, trace
from scene4d.worlds.types import SurfacePoints, World

CONVENTION = "OpenCV axes (x right, y down, z forward), world_to_cam, pixel centres at +0.5; z is up in the world"
MAX_INSTANCE = 255  # ids are stored in 8 bits


@dataclass(frozen=True)
class CaptureOptions:
    """What is written."""

    frames: int = 12
    fps: float | None = None  # None: the frames span the world's duration
    samples: int = 3  # rays a pixel along each axis, for the images
    masks: bool = True
    depth: bool = True
    points: int = 2000  # sparse points on surfaces that stand still; 0 = none
    tracks: int = 400  # truth tracks, equally many an instance
    noise: Noise = Noise()

    def __post_init__(self) -> None:
        for name in ("frames", "samples", "tracks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise ValueError(f"fps must be positive, got {self.fps}")
        if self.points < 0:
            raise ValueError(f"points must not be negative, got {self.points}")

    def rate(self, world: World) -> float:
        return self.fps or max(1, self.frames - 1) / world.duration


def capture_world(
    world: World,
    rig: Rig,
    out: Path,
    options: CaptureOptions = CaptureOptions(),  # noqa: B008 - frozen
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the capture of a world: cameras.json, pictures, points.ply, truth.json and truth.npz.

    Picture k shows time k / fps. The folder appears whole or not at all. `progress(done, total)` is called after each
    frame.

    Raises ValueError if `out` exists, if moving cameras have another number of frames, or if an instance id does not
    fit into the masks.
    """
    if out.exists():
        raise ValueError(f"out must not exist, got {out}")
    if any(i > MAX_INSTANCE for i in world.instances):
        raise ValueError(f"instances must be at most {MAX_INSTANCE}, got {max(world.instances)}")
    if rig.world_to_cam.shape[1] not in (1, options.frames):
        raise ValueError(f"rig must have 1 or {options.frames} poses a camera, got {rig.world_to_cam.shape[1]}")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    times = [k / options.rate(world) for k in range(options.frames)]
    for k, time in enumerate(times):
        _write_frame(world, rig, part, options, k, time)
        if progress:
            progress(k + 1, len(times))
    if options.points:
        _write_points(world, rig, part / "points.ply", options, times)
    _write_cameras(world, rig, part, options)
    _write_truth(world, rig, part, options, times)
    part.rename(out)


def load_truth(folder: Path) -> tuple[World, dict[str, np.ndarray]]:
    """The world that a capture was made of, and the arrays of its truth.npz (docs/captures.md)."""
    world = from_json(json.loads((folder / "truth.json").read_text())["world"])
    with np.load(folder / "truth.npz") as arrays:
        return world, dict(arrays)


def _write_frame(world: World, rig: Rig, out: Path, options: CaptureOptions, k: int, time: float) -> None:
    truth = trace(world, rig.at(k), time, options.samples)
    images = (truth.images * 255.0).round().to(torch.uint8).numpy()
    for c, name in enumerate(rig.names):
        random = np.random.default_rng([options.noise.seed, c, k])
        folders = {layer: out / layer / name for layer in ("images", "masks", "depth")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[c]).save(folders["images"] / f"{k:05d}.png")
        if options.masks:
            ids = noisy_mask(truth.ids[c].numpy().astype(np.uint8), options.noise, random)
            Image.fromarray(ids).save(folders["masks"] / f"{k:05d}.png")
        if options.depth:
            np.save(folders["depth"] / f"{k:05d}.npy", noisy_depth(truth.depth[c].numpy(), options.noise, random))


def _write_cameras(world: World, rig: Rig, out: Path, options: CaptureOptions) -> None:
    for layer, wanted in (("masks", options.masks), ("depth", options.depth)):
        if not wanted:
            shutil.rmtree(out / layer)
    poses = noisy_poses(rig.world_to_cam.numpy(), options.noise, np.random.default_rng([options.noise.seed, 7]))
    cameras = []
    for c, name in enumerate(rig.names):
        layers = {"images": True, "masks": options.masks, "depth": options.depth}
        pose = poses[c, 0] if poses.shape[1] == 1 else poses[c]
        cameras.append(
            {
                "name": name,
                **{layer: f"{layer}/{name}" for layer, wanted in layers.items() if wanted},
                "width": rig.width,
                "height": rig.height,
                "fps": options.rate(world),
                "frames": options.frames,
                "K": rig.K.tolist(),
                "distortion": {"model": "opencv", "coefficients": [0.0, 0.0, 0.0, 0.0]},
                "world_to_cam": pose.tolist(),
            }
        )
    split = {"test_cameras": list(rig.test_cameras), "test_frames": held_out_frames(options.frames)}
    head = {"format": "scene4d-capture", "version": 1, "convention": CONVENTION, "units": "m"}
    points = {"points": "points.ply"} if options.points else {}
    text = json.dumps({**head, **points, "split": split, "cameras": cameras}, indent=1)
    (out / "cameras.json").write_text(text + "\n")


def _write_points(world: World, rig: Rig, path: Path, options: CaptureOptions, times: list[float]) -> None:
    """Points on what never moves, seen from at least two training viewpoints: as structure from motion finds."""
    frames = sorted(set(np.linspace(0, len(times) - 1, 4).round().astype(int).tolist()))
    poses = torch.stack([poses_at(world, t).T_world_rest for t in times])
    still = (poses - poses[0]).abs().amax((0, 2, 3)) < 1e-9
    found = [sample_points(world, _training(rig, f), times[f], 4 * options.points, options.noise.seed) for f in frames]
    parts, rest = torch.cat([p.parts for p in found]), torch.cat([p.rest for p in found])
    keep = still[parts]
    points = SurfacePoints(parts[keep], rest[keep])
    seen = tracks(world, points, [_training(rig, f) for f in frames], [times[f] for f in frames]).visible
    viewpoints = seen.any(0) if rig.world_to_cam.shape[1] == 1 else seen.flatten(0, 1)
    good = (viewpoints.sum(0) >= 2).nonzero()[:, 0]
    order = torch.randperm(len(good), generator=torch.Generator().manual_seed(options.noise.seed))
    rows = good[order[: options.points]]
    points = SurfacePoints(points.parts[rows], points.rest[rows])
    colors = torch.zeros(len(rows), 3)
    for k in points.parts.unique().tolist():
        mine = points.parts == k
        colors[mine] = surface_colors(world, poses[0, k], k, points.rest[mine])
    write_points(path, points_at(world, points, times[0]).numpy(), (colors * 255.0).round().to(torch.uint8).numpy())


def write_points(path: Path, xyz: np.ndarray, rgb: np.ndarray) -> None:
    """Binary PLY of points [N, 3] and 8-bit colours [N, 3]."""
    columns = [(n, "<f4") for n in "xyz"] + [(n, "u1") for n in ("red", "green", "blue")]
    table = np.empty(len(xyz), columns)
    for i, name in enumerate("xyz"):
        table[name] = xyz[:, i]
    for i, name in enumerate(("red", "green", "blue")):
        table[name] = rgb[:, i]
    PlyData([PlyElement.describe(table, "vertex")], byte_order="<").write(str(path))


def _training(rig: Rig, frame: int) -> Cameras:
    cameras = rig.at(frame)
    rows = [c for c, name in enumerate(rig.names) if name not in rig.test_cameras]
    return Cameras(cameras.world_to_cam[rows], cameras.K[rows], rig.width, rig.height)


def _write_truth(world: World, rig: Rig, out: Path, options: CaptureOptions, times: list[float]) -> None:
    points = sample_points(world, rig.at(0), times[0], options.tracks, options.noise.seed)
    paths = tracks(world, points, [rig.at(k) for k in range(len(times))], times)
    poses = [poses_at(world, t) for t in times]
    np.savez_compressed(
        out / "truth.npz",
        times=np.array(times),
        world_to_cam=np.stack([rig.at(k).world_to_cam.numpy() for k in range(len(times))], 1),
        T_world_obj=torch.stack([p.T_world_obj for p in poses]).numpy(),
        deformation=torch.stack([p.deformation for p in poses]).numpy(),
        track_parts=points.parts.numpy(),
        track_instances=np.array([world.objects[k].instance for k in points.parts.tolist()]),
        track_rest=points.rest.numpy(),
        track_xyz=paths.xyz.numpy(),
        track_pixels=paths.pixels.numpy(),
        track_visible=paths.visible.numpy(),
    )
    sizes = {str(i): instance_size(world, i) for i in world.instances}
    truth = {
        "format": "scene4d-truth",
        "version": 1,
        "fps": options.rate(world),
        "samples": options.samples,
        "instance_sizes": sizes,
        "noise": asdict(options.noise),
        "world": to_json(world),
    }
    (out / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def instance_size(world: World, instance: int) -> float:
    """Metres: the longest side of the upright box around the bounding spheres of the instance's parts at time 0."""
    poses = poses_at(world, 0.0).T_world_rest
    low, high = torch.full((3,), torch.inf).double(), torch.full((3,), -torch.inf).double()
    for obj, T_world_rest in zip(world.objects, poses, strict=True):
        if obj.instance == instance:
            radius = bounding_radius(obj.shape) * torch.linalg.matrix_norm(T_world_rest[:3, :3], ord=2)
            low = torch.minimum(low, T_world_rest[:3, 3] - radius)
            high = torch.maximum(high, T_world_rest[:3, 3] + radius)
    return float((high - low).max())
