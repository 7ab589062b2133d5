"""Evidence for every pixel of a target frame, gathered from the source views.

With few source views every pixel is tested against all of them. With many, every fourth pixel of every fourth row is;
the views that show most of these best are then asked for every pixel, and the rest only for the pixels that none of
these shows: so a pixel without evidence has been tested against every view, and only counts of views are estimated.

S source views, V of them at a time, H W pixels, n pixels in a list, K best views.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from scene4d.cues.geometry import completed
from scene4d.cues.sources import Prepared
from scene4d.cues.target import TargetFrame, carried, surface_normals, surface_points
from scene4d.cues.visibility import BEHIND, SAME_SIGHT, Pairs, Points, extents, look, unit_columns

BEST = 3  # views of which a pixel's colour is mixed: sharper than all
ALL_VIEWS = 16  # up to so many source views are all asked for every pixel
CLOSE_VIEWS = 8  # else so many
STRIDE = 4  # of the coarse look at all views
CARRIED = 16  # blocks of moving points that are carried along together: 40 MB
PAIRS = 1 << 16  # looked at together: what one step makes is still in the cache for the next
HOLE_ROUNDS = 64  # pixels from the border of a hole to which depth is completed
FADE_SECONDS = 0.5  # in which the weight of pictures of something that deforms falls by e


@dataclass(frozen=True)
class Evidence:
    """Per pixel, flat. The K best views come first best; those without weight have view -1."""

    count: Tensor  # [n] int32 V: views that see the surface
    nearly: Tensor  # [n] bool: a view nearly sees it
    extent: Tensor  # [n] pixels inside the deepest view, negative: outside of all
    missed: Tensor  # [n] product of 1 - weight over the views
    total: Tensor  # [n] sum of the weights
    view: Tensor  # [K, n] int32
    weight: Tensor  # [K, n]
    u: Tensor  # [K, n] pixels in the view
    v: Tensor  # [K, n]
    share: Tensor  # [K, n] difference of depth as a share of what is allowed
    cosine: Tensor  # [K, n] of the angle between the lines of sight
    resolution: Tensor  # [K, n] source pixels a target pixel
    edge: Tensor  # [K, n] 1 at a jump of the source's depth to 0 away from it
    gap: Tensor  # [K, n] seconds between the picture and the state that is shown
    cycle: Tensor  # [K, n] target pixels between a pixel and where its source pixel's own depth puts it back


TOP = ("u", "v", "share", "cosine", "resolution", "edge", "gap", "cycle")


def gather_evidence(prepared: Prepared, frame: TargetFrame, rows: Tensor) -> Evidence:
    """What the source views `rows` [S] tell about the pixels of a frame.

    Pixels that show nothing have no evidence but the extent, at a depth that is completed from behind; with no depth
    near them, at infinity.
    """
    depth = completed(frame.depth * frame.covered, HOLE_ROUNDS)
    xyz = surface_points(frame, depth)
    covered, moving = frame.covered.reshape(-1), frame.moving.reshape(-1)
    normals = surface_normals(frame, xyz)
    evidence = _empty(len(xyz), xyz)
    for group, moved in ((covered & ~moving, False), (covered & moving, True)):
        pixels = group.nonzero()[:, 0]
        if len(pixels):
            surface = _Surface(frame, pixels, xyz[pixels], normals[pixels], moved)
            _store(evidence, pixels, _ask(prepared, rows, surface))
    rest = (moving | ~covered).nonzero()[:, 0]
    if len(rest):  # where the surface is now, not where it was: the extent is a matter of the shown world
        evidence.extent[rest] = extents(prepared, rows, xyz[rest].T.contiguous())
        void = rest[depth.reshape(-1)[rest] <= 0]
        if len(void):
            ray = surface_points(frame, torch.ones_like(depth))[void] - frame.camera.centers.to(xyz)
            evidence.extent[void] = extents(prepared, rows, ray.T.contiguous(), far=True)
    return evidence


def _empty(n: int, like: Tensor) -> Evidence:
    def of(value: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full(shape, value, dtype=dtype, device=like.device)

    top = {name: of(0.0, BEST, n) for name in TOP}
    return Evidence(
        count=of(0, n, dtype=torch.int32),
        nearly=of(0, n, dtype=torch.bool),
        extent=of(BEHIND, n),
        missed=of(1.0, n),
        total=of(0.0, n),
        view=of(-1, BEST, n, dtype=torch.int32),
        weight=of(0.0, BEST, n),
        **top,
    )


@dataclass(frozen=True)
class _Surface:
    """Some pixels of a frame and what is seen there."""

    frame: TargetFrame
    pixels: Tensor  # [n] int64 flat
    xyz: Tensor  # [n, 3]
    normals: Tensor  # [n, 3]
    moved: bool  # where views have to look depends on their times

    def __len__(self) -> int:
        return len(self.pixels)

    def part(self, chosen: slice | Tensor) -> _Surface:
        return replace(self, pixels=self.pixels[chosen], xyz=self.xyz[chosen], normals=self.normals[chosen])

    def points(self, times: list[float]) -> Points:
        """The surface points, where they are or where each view has to look for them at its time."""
        frame, pixels = self.frame, self.pixels
        center = frame.camera.centers.to(self.xyz)
        xyz, normals = self.xyz.T.contiguous(), self.normals.T.contiguous()
        if self.moved:
            maps_at, known = frame.back_map(pixels), {}
            for time in dict.fromkeys(times):
                maps = maps_at(time)
                turned = unit_columns(carried(maps, normals, shift=False)[None])[0]
                known[time] = carried(maps, xyz), carried(maps, center.T), turned
            at, eyes, facing = (torch.stack([known[time][i] for time in times]) for i in range(3))
        else:
            at, eyes, facing = xyz[None], center.T[None], normals[None]
        focal = float((frame.camera.K[0, 0, 0] * frame.camera.K[0, 1, 1]).sqrt())
        distance = (xyz - center.T).square().sum(0).sqrt()  # several times as fast as torch's norm of three
        return Points(
            at,
            eyes,
            facing,
            instances=frame.instances.reshape(-1)[pixels].to(torch.int16),
            times=frame.source_times.reshape(-1)[pixels].float(),
            fading=frame.flag("deforming").reshape(-1)[pixels].float() / FADE_SECONDS,
            footprints=frame.depth.reshape(-1)[pixels] / (focal * distance.clamp(min=1e-12)),
        )


def _ask(prepared: Prepared, rows: Tensor, surface: _Surface) -> Evidence:
    """Evidence of the views `rows` for the pixels; see the module's docstring."""
    if len(rows) <= ALL_VIEWS:
        return _weigh(prepared, rows, surface)
    pixels, width = surface.pixels, surface.frame.camera.width
    on_grid = (pixels % width % STRIDE == STRIDE // 2) & (pixels // width % STRIDE == STRIDE // 2)
    sample = on_grid.nonzero()[:, 0]
    if len(sample) < 16:
        sample = torch.arange(0, len(pixels), max(1, len(pixels) // 64), device=pixels.device)
    close, counted = _closest(prepared, rows, surface.part(sample))
    evidence = _weigh(prepared, rows[close], surface)
    unseen = (evidence.count == 0).nonzero()[:, 0]
    if len(unseen):
        more = _weigh(prepared, rows[~close], surface.part(unseen))
        extent = torch.maximum(more.extent, evidence.extent[unseen])
        nearly = more.nearly | evidence.nearly[unseen]
        _store(evidence, unseen, more)
        evidence.extent[unseen], evidence.nearly[unseen] = extent, nearly
    around = _spread(pixels, pixels[sample], counted, surface.frame)
    found = torch.where(evidence.count > 0, torch.maximum(evidence.count, around), 0)
    return replace(evidence, count=found)


def _closest(prepared: Prepared, rows: Tensor, surface: _Surface) -> tuple[Tensor, Tensor]:
    """Which of the views are best for most of the pixels, bool [S], and how many see each pixel.

    Greedy: each view in turn is the one that adds most to the sum over pixels of the best weight so far, with half a
    pixel's worth for merely seeing what no view so far does.
    """
    weights, counts = [], []
    for points in _blocks(prepared, rows, surface):
        pairs = look(prepared, rows, points)
        weights.append(torch.where(pairs.visible, pairs.weight + 0.5, 0.0))
        counts.append(pairs.visible.sum(0))
    weight = torch.cat(weights, 1)
    best = torch.zeros_like(weight[0])
    chosen = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    for _ in range(min(CLOSE_VIEWS, len(rows))):
        gain = (weight - best).clamp(min=0).sum(1).masked_fill(chosen, -1.0)
        view = int(gain.argmax())
        chosen[view] = True
        best = torch.maximum(best, weight[view])
    return chosen, torch.cat(counts).int()


def _spread(pixels: Tensor, sample: Tensor, counted: Tensor, frame: TargetFrame) -> Tensor:
    """For each pixel what was counted at the sampled pixel in its cell of the grid; 0 where there is none."""
    width, columns = frame.camera.width, -(-frame.camera.width // STRIDE)
    cells = counted.new_zeros(columns * -(-frame.camera.height // STRIDE))
    cells[sample // width // STRIDE * columns + sample % width // STRIDE] = counted
    return cells[pixels // width // STRIDE * columns + pixels % width // STRIDE]


def _weigh(prepared: Prepared, rows: Tensor, surface: _Surface) -> Evidence:
    """Evidence of all of the views for all of the pixels."""
    if len(rows) == 0 or len(surface) == 0:
        return _empty(len(surface), surface.xyz)
    blocks = [_reduced(prepared, rows, points) for points in _blocks(prepared, rows, surface)]
    if len(blocks) == 1:
        return blocks[0]
    return Evidence(*(torch.cat([getattr(b, f.name) for b in blocks], -1) for f in fields(Evidence)))


def _blocks(prepared: Prepared, rows: Tensor, surface: _Surface) -> Iterator[Points]:
    """The surface's points as the views see them, a block at a time; carried along for several blocks at once."""
    times = [float(t) for t in prepared.views.times[rows]]
    block = max(1, PAIRS // len(rows))
    together = block * CARRIED if surface.moved else len(surface)
    for first in range(0, len(surface), together):
        part = surface.part(slice(first, first + together))
        points = part.points(times)
        for start in range(0, len(part), block):
            yield points.part(slice(start, start + block))


def _reduced(prepared: Prepared, chosen: Tensor, points: Points) -> Evidence:
    pairs = look(prepared, chosen, points)
    V, n = pairs.u.shape
    weight, index = torch.topk(pairs.weight, min(BEST, V), 0)
    best = _of_best(prepared, pairs, points, chosen[index], index)
    view = torch.where(weight > 0, chosen[index].int(), -1)
    if V < BEST:
        missing = torch.zeros(BEST - V, n, device=weight.device)
        best = {name: torch.cat([x, missing]) for name, x in best.items()}
        weight, view = torch.cat([weight, missing]), torch.cat([view, missing.int() - 1])
    return Evidence(
        count=pairs.visible.sum(0, dtype=torch.int32),
        nearly=pairs.nearly.any(0),
        extent=pairs.extent.amax(0),
        missed=(1 - pairs.weight.clamp(max=1)).prod(0),
        total=pairs.weight.sum(0),
        view=view,
        weight=weight,
        **best,
    )


def _of_best(prepared: Prepared, pairs: Pairs, points: Points, views: Tensor, index: Tensor) -> dict[str, Tensor]:
    """What is told of the best views [K, n], whose positions among the pairs are `index`."""

    def pick(name: str) -> Tensor:
        x = getattr(pairs, name)
        return x.gather(0, index) if x.shape[0] == pairs.u.shape[0] else x.expand(index.shape)

    ratio, cosine = pick("ratio"), pick("cosine")
    # from the point to where D puts it, along the source's line of sight; of that, what the target sees from the side
    off = (1 / ratio.clamp(min=1e-6) - 1).abs() * pick("distance")
    cycle = off * (1 - cosine.square()).clamp(min=0).sqrt() / (pick("sight") * points.footprints)
    return {
        "u": pick("u"),
        "v": pick("v"),
        "share": (ratio - 1).abs() / pick("allowed"),
        "cosine": cosine,
        "resolution": pick("resolution"),
        "edge": pick("edge") * (cosine < 1 - SAME_SIGHT),
        "gap": (prepared.times[views] - points.times).abs(),
        "cycle": cycle,
    }


def _store(evidence: Evidence, pixels: Tensor, part: Evidence) -> None:
    for f in fields(Evidence):
        getattr(evidence, f.name).index_copy_(-1, pixels, getattr(part, f.name))
