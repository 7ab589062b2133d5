"""One moving camera and no depth: where masked things stand.

One view at a time says nothing about the distance of what moves by itself. Two things are known: what stands still,
from sparse points, and that most things stand on the ground. So the depth of a masked thing is that of the static scene
just below its mask ("contact"), and it is in front of what it hides. Contact is too far for what flies and too near for
what something else hides; the thing's apparent size ties the frames together and outvotes such frames.

P points, T frames, n points of a thing, m pixels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from scene4d.captures import View
from scene4d.fitting.flows import at_border, pair_flow, pixel_grid, sample
from scene4d.fitting.footage import Footage
from scene4d.fitting.hull import inside, project
from scene4d.fitting.sparse import LEAST_POINTS, fundamental, triangulated_points
from scene4d.fitting.tracking import PointTracks, unproject

BAND = 0.08  # of a mask's height: what is this near to its lowest pixel may touch the ground
NEAREST = 8  # points that a pixel's depth is made from
ALWAYS = 0.95  # of the views that see a point: this often on a mask, and it is of the masked thing
LEAST_SEEN = 3  # views
LEAST_TRIANGULATED = 60  # points; of fewer the wrong ones are too many, and would put walls in front of people
SOME = 0.1  # of the points that lie on a mask: as many stand out, or what does is chance
NEARER = 0.95  # of the depth around them: points of a thing
THICK = 1.3  # of the depth of contact: points that are deeper are not a thing's own
FIT = 0.25  # of its extent, by which a thing's rim is in front of what it hides
SWING = 1.25  # factor by which a thing's apparent size may lie about its depth: limbs, turns
WINDOW = 5  # frames of the running median
BULGE = 0.5  # of half the thickness that a round thing with this silhouette would have
UNUSUAL = 6.0  # times the picture's median disagreement of flow with the still scene
FLOW_NOISE = 0.05  # pixels: what DIS is off at best
GAIN = 0.01  # of a channel's range, by which flow explains the picture better; it says nothing about an even sky
SPECK = 0.002  # of the picture
CLOSE = 0.5  # of the depth of the nearest hundredth of points
CLEARLY = 0.8  # of another view's depth: what is nearer than that hides what the view saw
IN_FRONT = 0.6  # of the depth behind a thing: the most that its extent takes off


def is_monocular(footage: Footage) -> bool:
    """Whether every instant has one view, its camera moves, and no depth is known."""
    names = footage.camera_names
    if len(names) != 1 or len(footage.frames) != len(footage.views):
        return False
    return not footage.capture.is_static(names[0]) and not any(footage.depth(v) is not None for v in footage.views)


def static_points(footage: Footage, pictures: dict[str, Tensor]) -> Tensor:
    """Sparse points [P, 3] of what stands still: the capture's, else triangulated ones, which are remembered.

    `pictures`: backgrounds [H, W, 3] of still cameras, by name.
    """
    if footage.capture.points is not None:
        return footage.capture.points.xyz
    if footage.triangulated is None:
        found = triangulated_points(footage, pictures)
        footage.triangulated = found if len(found) >= LEAST_TRIANGULATED else found[:0]
    return footage.triangulated


def looked_through(
    footage: Footage, seen: tuple[Sequence[View], Sequence[Tensor]], xyz: Tensor, points: Tensor
) -> Tensor:
    """Bool [n]: points [n, 3] of a cloud that hang in front of what other views see, or right before a camera.

    Depth maps that are made of few points are wrong in places, so most of the views that show a point have to
    contradict it, clearly and with a pixel that no mask covers.

    Args:
        seen: views and their depth [H, W] of what stands still.
        points: [P, 3] static points; nothing is nearer to a camera than `CLOSE` of the nearest of them.
    """
    through, shown = torch.zeros(len(xyz)), torch.zeros(len(xyz))
    close = torch.zeros(len(xyz), dtype=torch.bool)
    limit = nearest_depth(footage, seen[0], points)
    for view, depth in zip(*seen, strict=True):
        camera = footage.capture.cameras([view])
        uv, z = project(camera, xyz)
        there, ids = inside(camera, uv, z), footage.instances(view)
        close |= there & (z < limit)
        if ids is not None:
            there &= sample(ids.float(), uv, "nearest") == 0
        behind = sample(depth, uv, "nearest")
        shown += there
        through += there & (z < CLEARLY * behind)
    return close | ((through >= LEAST_SEEN) & (through > 0.5 * shown))


def nearest_depth(footage: Footage, views: Sequence[View], points: Tensor) -> float:
    """Depth below which nothing of the static scene is believed: a share of the nearest points that views show."""
    found = []
    for view in views:
        camera = footage.capture.cameras([view])
        uv, z = project(camera, points)
        found.append(z[inside(camera, uv, z)])
    depths = torch.cat(found).sort().values
    return CLOSE * float(depths[len(depths) // 100]) if len(depths) else 0.0


def instances_of_points(footage: Footage, points: Tensor) -> Tensor:
    """For static points [P, 3] the instance [P] int32 on whose mask they lie in all views, 0 = none.

    Masked things with such points stand still. A view where another thing is at the point says nothing. Points that are
    no nearer than those around them are not counted: they lie behind a thing, not on it.
    """
    ids = {v.key: footage.instances(v) for v in footage.views}
    labels = sorted({int(i) for x in ids.values() if x is not None for i in x.unique()} - {0})
    hits, misses = torch.zeros(len(labels), len(points)), torch.zeros(len(points))
    for view in footage.views:
        mask = ids[view.key]
        if mask is None:
            continue
        camera = footage.capture.cameras([view])
        uv, z = project(camera, points)
        there = torch.where(inside(camera, uv, z), sample(mask.float(), uv, "nearest").int(), -1)
        misses += there == 0
        for row, label in enumerate(labels):
            hits[row] += there == label
    owner = torch.zeros(len(points), dtype=torch.int32)
    for row, label in enumerate(labels):
        owner[(hits[row] >= LEAST_SEEN) & (hits[row] >= ALWAYS * (hits.sum(0) + misses))] = label
    for label in labels:
        mine = owner == label
        near = _stand_out(footage, points[mine], points[owner == 0], label)
        enough = int(near.sum()) >= max(LEAST_POINTS, SOME * len(near))
        owner[mine] = torch.where(near & enough, label, 0).int()
    return owner


def _stand_out(footage: Footage, own: Tensor, rest: Tensor, label: int) -> Tensor:
    """Bool [n]: points [n, 3] on an instance's mask that are nearer than those around it, and where it stands.

    `rest` [P, 3]: the other static points.
    """
    contact, behind, _ = contact_depths(footage, rest, label)
    limit = THICK * torch.where(contact.isfinite(), contact, behind)
    over = []
    for k, frame in enumerate(footage.frames):
        view = footage.at(frame)[0]
        camera = footage.capture.cameras([view])
        uv, z = project(camera, own)
        around = static_depth(footage, view, rest, uv)
        if around is not None:
            most = torch.minimum(NEARER * around, limit[k].nan_to_num(torch.inf))
            over.append(torch.where(inside(camera, uv, z), z / most, torch.nan))
    return torch.stack(over).nanmedian(0).values < 1 if over else torch.zeros(len(own), dtype=torch.bool)


def static_depth(footage: Footage, view: View, points: Tensor, pixels: Tensor) -> Tensor | None:
    """Depth [m] of the static scene at pixels [m, 2], from the sparse points [P, 3] nearest in the picture.

    The mean of inverse depths by distance, of those that most of the nearest agree with. None with too few points.
    """
    camera = footage.capture.cameras([view])
    uv, z = project(camera, points)
    good = inside(camera, uv, z)
    if int(good.sum()) < LEAST_POINTS:
        return None
    distance, index = KDTree(uv[good].numpy()).query(pixels.numpy(), k=NEAREST)
    inverse = (1 / z[good])[torch.from_numpy(index)]
    middle = inverse.median(1, keepdim=True).values
    weights = 1 / (torch.from_numpy(distance).float().square() + 4.0)
    weights = weights * ((inverse - middle).abs() < 0.3 * middle) + 1e-12
    return weights.sum(1) / (weights * inverse).sum(1)


def lower_border(mask: Tensor) -> Tensor:
    """Pixels [m, 2] just below the lowest parts of a mask [H, W]; none where it goes on below the picture."""
    height = mask.shape[0]
    columns = mask.any(0).nonzero()[:, 0]
    if not len(columns):
        return torch.zeros(0, 2)
    rows = torch.arange(height)[:, None]
    lowest = torch.where(mask[:, columns], rows, -1).amax(0)
    first = int(mask.any(1).nonzero()[0, 0])
    bottom = int(lowest.max())
    if bottom >= height - 1:
        return torch.zeros(0, 2)
    near = lowest >= bottom - BAND * (bottom - first + 1)
    return torch.stack([columns[near] + 0.5, lowest[near] + 1.5], 1)


def contact_depths(footage: Footage, points: Tensor, instance: int) -> tuple[Tensor, Tensor, Tensor]:
    """By training frame: depth of the ground below a thing, the most that leaves it room, its apparent size in pixels.

    Room is needed between a thing and what it hides: one that hangs before a wall has no ground below it.

    Each [T], NaN where it is not known: no mask, cut by the picture's border, too few points.
    """
    T = len(footage.frames)
    contact, behind, size = (torch.full((T,), torch.nan) for _ in range(3))
    for k, frame in enumerate(footage.frames):
        view = footage.at(frame)[0]
        ids = footage.instances(view)
        if ids is None or not bool((ids == instance).any()):
            continue
        mask = ids == instance
        below = lower_border(mask)
        middle = mask.nonzero()[:: max(1, int(mask.sum()) // 64)].flip(1) + 0.5
        found = static_depth(footage, view, points, torch.cat([below, middle]))
        if found is None:
            continue
        extent = mask.sum().sqrt()
        room = 1 - FIT * extent / footage.capture.cameras([view]).K[0, 0, 0]
        behind[k] = found[len(below) :].quantile(0.1) * room.clamp_min(IN_FRONT)
        if len(below):
            contact[k] = torch.minimum(found[: len(below)].median(), behind[k])
        if not at_border(mask):
            size[k] = extent
    return contact, behind, size


def depth_curves(footage: Footage, points: Tensor) -> dict[int, Tensor]:
    """Depth [T] at every training frame of the things that move by themselves, by instance; none without points."""
    owner = instances_of_points(footage, points)
    still = set(owner.unique().tolist())
    found = {}
    for instance in _labels(footage) - still:
        contact, behind, size = contact_depths(footage, points, instance)
        curve = depth_curve(contact, behind, size)
        if curve is not None:
            found[instance] = curve
    return found


def _labels(footage: Footage) -> set[int]:
    masks = [footage.instances(v) for v in footage.views]
    return {int(i) for x in masks if x is not None for i in x.unique()} - {0}


def depth_curve(contact: Tensor, behind: Tensor, size: Tensor) -> Tensor | None:
    """Depth [T] of a thing from the three of `contact_depths`, gaps filled; None where nothing is known.

    Contact says where the thing is. Where that makes its true size, apparent size times depth, differ from the usual
    by more than `SWING`, the apparent size says it.
    """
    if not bool(contact.isfinite().any()):
        contact = behind  # the picture's border always cuts it
    if not bool(contact.isfinite().any()):
        return None
    both = contact.isfinite() & size.isfinite()
    if int(both.sum()) < WINDOW:
        return calm(contact.log()).exp()
    log_size = calm(size.log())
    by_size = (contact[both].log() + log_size[both]).median() - log_size
    off = contact.log() - by_size
    return (by_size + calm(torch.where(off.abs() < float(np.log(SWING)), off, 0.0))).exp()


def calm(values: Tensor) -> Tensor:
    """Values [T] without outliers: NaN filled along a line, running median, mean of three. Not all may be NaN."""
    known = values.isfinite()
    T = len(values)
    line = np.interp(np.arange(T), known.nonzero()[:, 0].numpy(), values[known].numpy())
    line = torch.from_numpy(np.pad(line, WINDOW // 2, mode="edge")).float().unfold(0, WINDOW, 1).median(1).values
    return torch.nn.functional.pad(line[None], (1, 1), mode="replicate")[0].unfold(0, 3, 1).mean(1)


def masked_depth(footage: Footage, view: View, points: Tensor) -> Tensor | None:
    """Depth [H, W] of the masked things in a view, 0 elsewhere; None where there is no mask or no point.

    A thing that stands still is as deep as its own points. One that moves is a shield that bulges towards the camera.
    """
    ids = footage.instances(view)
    if ids is None:
        return None
    owner, curves = instances_of_points(footage, points), depth_curves(footage, points)
    when, depth = footage.frames.index(view.frame), torch.zeros(ids.shape)
    focal = float(footage.capture.cameras([view]).K[0, 0, 0])
    for instance in {int(i) for i in ids.unique()} - {0}:
        mask = ids == instance
        if instance in curves:
            depth[mask] = shield(mask, float(curves[instance][when]), focal)[mask]
            continue
        own = static_depth(footage, view, points[owner == instance], mask.nonzero().flip(1) + 0.5)
        if own is not None:
            depth[mask] = own
    return depth if bool((depth > 0).any()) else None


def shield(mask: Tensor, z: float, focal: float) -> Tensor:
    """Depth [H, W] of a half-round thing with this silhouette [H, W] whose rim is z away; `focal` in pixels."""
    padded = cv2.copyMakeBorder(mask.byte().numpy(), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = torch.from_numpy(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1])
    radius = distance.max().clamp_min(1e-6)
    height = (distance * (2 * radius - distance)).clamp_min(0).sqrt()  # of a sphere, in pixels
    return z * (1 - (BULGE * height / focal).clamp_max(0.3))


def anchored(footage: Footage, tracks: PointTracks) -> PointTracks:
    """Tracks of one moving camera, moved along its rays to the depths that contact and size give.

    Flow says nothing about depth there. Things that have static points of their own stay where they were found. Tracks
    of other captures are given back as they are.
    """
    if not is_monocular(footage):
        return tracks
    points = static_points(footage, {})
    curves, still = depth_curves(footage, points), set(instances_of_points(footage, points).unique().tolist())
    xyz, home = tracks.xyz.clone(), tracks.xyz[tracks.origin]
    for instance in tracks.instances.unique().tolist():
        mine = tracks.instances == instance
        if instance in curves:
            xyz[:, mine] = _along_rays(footage, tracks.xyz[:, mine], curves[instance], tracks.origin)
        elif instance in still:
            xyz[:, mine] = home[mine]
    return replace(tracks, xyz=xyz)


def _along_rays(footage: Footage, xyz: Tensor, curve: Tensor, origin: int) -> Tensor:
    """Points [T, n, 3] pulled towards or away from each frame's camera; their median depth goes as the curve [T]."""
    centers, depths = [], []
    for k, frame in enumerate(footage.frames):
        camera = footage.capture.cameras([footage.at(frame)[0]])
        centers.append(camera.centers[0])
        depths.append(project(camera, xyz[k])[1].median())
    middle, now = torch.stack(centers)[:, None], torch.stack(depths)
    wanted = now[origin] * curve / curve[origin]
    factor = torch.where(now > 0, wanted / now.clamp_min(1e-9), torch.ones_like(now))
    return middle + (xyz - middle) * factor[:, None, None]


def add_flow_masks(footage: Footage) -> None:
    """Motion masks for the views of moving cameras that have no mask: where flow is not what a still scene's would be.

    A guess: shadows move too, and what moves along its epipolar line is not told from depth. A given mask is better.
    """
    found = {}
    for name in footage.camera_names:
        views = footage.of_camera(name)
        if footage.capture.is_static(name) or len(views) < 3:
            continue
        for k in range(len(views)):
            if footage.instances(views[k]) is None:
                mask = _flow_mask(footage, views, k, static_points(footage, {}))
                found.update({} if mask is None else {views[k].key: mask})
    footage.motion_masks.update(found)


def _flow_mask(footage: Footage, views: list[View], k: int, points: Tensor) -> Tensor | None:
    """Bool [H, W] from the flow to the two views before and after, by the median of what they say."""
    view, grid = views[k], pixel_grid(views[k].height, views[k].width)
    coarse = static_depth(footage, view, points, grid[2::4, 2::4].reshape(-1, 2))
    if coarse is None:
        return None
    small = (1 / coarse).reshape(grid[2::4, 2::4].shape[:2]).numpy()
    z = 1 / torch.from_numpy(cv2.resize(small, (view.width, view.height))).flatten()
    xyz = unproject(footage.capture.cameras([view]), grid.reshape(-1, 2), z)
    others = [v for v in views[max(0, k - 2) : k + 3] if v is not view]
    said = torch.stack([_disagreement(footage, view, other, xyz) for other in others]).nanmedian(0).values
    off, across, gain = said.nan_to_num().reshape(3, view.height, view.width)
    unusual = torch.minimum(off / off.median().clamp_min(FLOW_NOISE), across / across.median().clamp_min(FLOW_NOISE))
    mask = cv2.GaussianBlur(unusual.numpy(), (0, 0), 1.5) > UNUSUAL
    mask = (mask & (cv2.GaussianBlur(gain.numpy(), (0, 0), 3.0) > GAIN)).astype(np.uint8)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask)
    mask[np.isin(parts, np.flatnonzero(stats[:, cv2.CC_STAT_AREA] < SPECK * mask.size))] = 0
    return torch.from_numpy(mask > 0)


def _disagreement(footage: Footage, a: View, b: View, xyz: Tensor) -> Tensor:
    """[3, H W] for the pixels of a view with the static points [H W, 3] behind them, NaN where flow is not known.

    Pixels between where flow and where the still scene takes them; pixels from there to the epipolar line, which no
    depth explains; and how much better flow explains the picture.
    """
    camera, here = footage.capture.cameras([b]), pixel_grid(a.height, a.width).reshape(-1, 2)
    uv, z = project(camera, xyz)
    flow = pair_flow(footage.image_u8(a), footage.image_u8(b))
    there = here + flow.flow.reshape(-1, 2)
    lines = torch.nn.functional.pad(here, (0, 1), value=1.0) @ torch.from_numpy(fundamental(a, b)).to(here).T
    across = ((lines[:, :2] * there).sum(1) + lines[:, 2]).abs() / lines[:, :2].norm(dim=1).clamp_min(1e-9)
    image, other = footage.image(a).reshape(-1, 3), footage.image(b)
    gain = (sample(other, uv) - image).abs().amax(1) - (sample(other, there) - image).abs().amax(1)
    known = flow.good.flatten() & inside(camera, uv, z)
    return torch.where(known, torch.stack([(there - uv).norm(dim=1), across, gain]), torch.nan)
