"""Simple editors to compare with. Each sees what any editor sees: the source, the edit, the target's cameras.

copy_source    the source frame of the same place in the clip, as if nothing had been asked for
copy_render    what a renderer shows of the edited scene: every pixel of the source lifted to its depth, static ones of
               all frames, things from the frame nearest in their time, moved as the edit says; nothing is black. For
               edits in the image: the thing is cut out (black) and put where it is asked to be
style          copy_render, each frame for itself through OpenCV's stylisation with a random tint and gain: what an
               image editor does that edits frame by frame

T frames, H W pixels, N points.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from scene4d.benchmarks.footage_items import shifted
from scene4d.captures import Capture, CaptureWarning, View, open_capture
from scene4d.captures.point_files import read_points
from scene4d.errors import InputError
from scene4d.metrics.benchmark_items import Item
from scene4d.path_files import load_path

FOOTPRINT = 0.6  # of a pixel's size at its depth: standard deviation of a lifted pixel
OPACITY = 4.0  # logit
TINT, GAIN = 0.06, 0.08  # standard deviations of the random style, of 1
OPERATIONS = ("move", "remove", "insert", "duplicate", "retime")
EDGE = 1  # pixels of a thing's edge that are not lifted: they are half background


def copy_source(item: Item) -> Tensor:
    """uint8 [T, H, W, 3]."""
    capture, views = source_views(item)
    return torch.stack([capture.image_u8(v) for v in views])


def copy_render(item: Item) -> Tensor:
    """uint8 [T, H, W, 3]. Raises InputError: the source lacks depth, masks or cameras for an edit in space."""
    if any(op.get("space") == "image" for op in item.edit):
        return _layered(item)
    return torch.stack([(frame * 255).round().to(torch.uint8) for frame in _lifted(item)])


def style(item: Item) -> Tensor:
    """uint8 [T, H, W, 3]."""
    random = np.random.default_rng(int.from_bytes(item.name.encode()[-8:], "big"))
    frames = []
    for frame in copy_render(item).numpy():
        painted = cv2.stylization(np.ascontiguousarray(frame[..., ::-1]), sigma_s=30, sigma_r=0.4)[..., ::-1] / 255.0
        painted = painted * (1 + GAIN * random.standard_normal()) + TINT * random.standard_normal(3)
        frames.append(torch.from_numpy((painted.clip(0, 1) * 255 + 0.5).astype(np.uint8)))
    return torch.stack(frames)


BASELINES: dict[str, Callable[[Item], Tensor]] = {
    "copy_source": copy_source,
    "copy_render": copy_render,
    "style": style,
}


def source_views(item: Item) -> tuple[Capture, list[View]]:
    """The source of an item, one view a frame. Raises InputError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        capture = open_capture(item.source)
    views = sorted(capture.views, key=lambda v: (v.frame, v.camera))
    if len(views) != item.frames or (views[0].width, views[0].height) != (item.width, item.height):
        raise InputError(f"{item.source}: must have {item.frames} frames of {item.width}x{item.height} for baselines")
    return capture, views


def _layered(item: Item) -> Tensor:
    capture, views = source_views(item)
    frames = []
    for view in views:
        image, mask = capture.image_u8(view).numpy(), capture.mask(view)
        if mask is None:
            raise InputError(f"{item.source}: has no masks, edits in the image need them")
        thing = mask.numpy()
        shown = np.where(thing[..., None], 0, image).astype(np.uint8)
        for op in item.edit:
            if op["op"] == "move":
                offset = (int(op["offset"][0]), int(op["offset"][1]))
                there = shifted(thing[None], offset)[0]
                rolled = np.roll(image, (offset[1], offset[0]), (0, 1))
                shown = np.where(there[..., None], rolled, shown)
        frames.append(torch.from_numpy(shown))
    return torch.stack(frames)


# -- lifted pixels -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cloud:
    """Pixels of one source frame in space."""

    xyz: Tensor  # [N, 3] float32
    rgb: Tensor  # [N, 3]
    size: Tensor  # [N] scene units a pixel
    ids: Tensor  # [N] int32


@torch.no_grad()
def _lifted(item: Item) -> Iterator[Tensor]:
    """Frames [H, W, 3]."""
    capture, views = source_views(item)
    clouds = [_cloud(capture, view) for view in views]
    still = _joined([_kept(c, c.ids == 0) for c in clouds])
    times = torch.tensor([v.time for v in views])
    things = sorted({int(i) for c in clouds for i in c.ids.unique()} - {0})
    path = load_path(item.folder / "camera_path.json")
    for t, time in enumerate(item.times):
        parts = [still]
        for placed in _placements(item, things, time):
            source = clouds[int((times - placed.time).abs().argmin())]
            parts.append(_moved(_kept(source, source.ids == placed.instance), placed.transform))
        parts += [_asset(item, op, still) for op in item.edit if op["op"] == "insert"]
        yield _drawn(_joined(parts), Cameras(path.world_to_cam[t : t + 1], path.K[t : t + 1], item.width, item.height))


@dataclass(frozen=True)
class Placement:
    """A thing of the source, at a time of the source, moved."""

    instance: int
    time: float
    transform: np.ndarray  # [4, 4]


def _placements(item: Item, things: list[int], time: float) -> list[Placement]:
    """Where the edit puts things at a time. Raises InputError: an operation is unknown."""
    found = {i: Placement(i, time, np.eye(4)) for i in things}
    for op in item.edit:
        kind, instance = op["op"], int(op["instance"])
        if kind not in OPERATIONS:
            raise InputError(f"{item.folder / 'item.json'}: op must be one of {', '.join(OPERATIONS)}, got {kind!r}")
        old = found.get(instance)
        if kind == "insert" or old is None:
            continue  # not of the source, or never seen there
        if kind == "remove":
            del found[instance]
        elif kind == "retime":
            warped = float(np.interp(time, op["times"], op["values"]))
            found[instance] = Placement(old.instance, warped, old.transform)
        else:
            placed = Placement(old.instance, old.time, np.array(op["transform"]) @ old.transform)
            found[instance if kind == "move" else int(op["new_instance"])] = placed
    return list(found.values())


def _cloud(capture: Capture, view: View) -> Cloud:
    depth, labels = capture.depth(view), capture.labels(view)
    if depth is None or labels is None or view.K is None or view.world_to_cam is None:
        raise InputError(f"{capture.root}: copy_render needs cameras, depth and masks of every frame")
    rows, columns = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    rays = torch.stack([columns, rows, torch.ones_like(rows)], -1).double() @ torch.linalg.inv(view.K).T
    cam = rays * depth[..., None].double()
    xyz = (cam - view.world_to_cam[:3, 3]) @ view.world_to_cam[:3, :3]
    good = (depth > 0) & ~_edges(labels)
    size = depth / float(view.K[0, 0])
    return Cloud(xyz[good].float(), capture.image(view)[good], size[good], labels[good])


def _edges(labels: Tensor) -> Tensor:
    values = labels.numpy().astype(np.float32)
    kernel = np.ones((2 * EDGE + 1,) * 2, np.uint8)
    return torch.from_numpy(cv2.dilate(values, kernel) != cv2.erode(values, kernel))


def _kept(cloud: Cloud, mask: Tensor) -> Cloud:
    return Cloud(cloud.xyz[mask], cloud.rgb[mask], cloud.size[mask], cloud.ids[mask])


def _joined(clouds: list[Cloud]) -> Cloud:
    return Cloud(*(torch.cat([getattr(c, name) for c in clouds]) for name in ("xyz", "rgb", "size", "ids")))


def _moved(cloud: Cloud, transform: np.ndarray) -> Cloud:
    matrix = torch.from_numpy(transform).float()
    return Cloud(cloud.xyz @ matrix[:3, :3].T + matrix[:3, 3], cloud.rgb, cloud.size, cloud.ids)


def _asset(item: Item, op: dict, like: Cloud) -> Cloud:
    points = read_points(item.folder / op["asset"])
    if points is None:
        raise InputError(f"{item.folder / op['asset']}: holds no points")
    count = len(points.xyz)
    rgb = points.rgb if points.rgb is not None else torch.full((count, 3), 0.5)
    return Cloud(points.xyz, rgb, like.size.median().expand(count), torch.full((count,), 1, dtype=torch.int32))


def _drawn(cloud: Cloud, cameras: Cameras) -> Tensor:
    count = len(cloud.xyz)
    gaussians = Gaussians(
        means=cloud.xyz,
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(count, 4).contiguous(),
        log_scales=(FOOTPRINT * cloud.size).log()[:, None].expand(count, 3).contiguous(),
        logit_opacities=torch.full((count,), OPACITY),
        colors=cloud.rgb,
    )
    camera = Cameras(cameras.world_to_cam.float(), cameras.K.float(), cameras.width, cameras.height)
    return rasterize(gaussians, camera).image[0].clamp(0, 1)
