"""The contact sheet of a capture: the cameras from above and from the side, thumbnails over time, warnings."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scene4d.captures.capture import Capture, View
from scene4d.captures.inspection import Report
from scene4d.captures.rig import Rig, representative_views

WIDTH = 1600
PANEL = 560  # side of the two camera drawings
MARGIN = 16
ROWS, COLUMNS = 8, 8  # cameras and instants shown at most
FRUSTA = 12  # drawn along a moving camera's path
PAPER, INK, WARN = (255, 255, 255), (30, 30, 30), (190, 60, 0)
COLORS = [(31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207)]


def contact_sheet(capture: Capture, report: Report) -> Image.Image:
    """An RGB picture of the capture. Views without pictures are left out."""
    title = [
        f"{report.path}   {report.format}",
        f"{report.views} views, {len(report.cameras)} cameras, {report.frames} frames, {report.duration:.3g} s"
        + (f" at {report.fps:g} fps" if report.fps else "")
        + (f", {report.points} points" if report.points else ""),
    ]
    drawings = capture.has_cameras
    text_left = MARGIN + 2 * (PANEL + MARGIN) if drawings else MARGIN
    lines = [line for w in report.warnings for line in textwrap.wrap(f"- {w}", (WIDTH - text_left) // 8)]
    top = MARGIN + 52
    head = max(PANEL if drawings else 0, 18 * len(lines) + 30)
    thumbs = _thumbnails(capture)
    height = top + head + MARGIN + sum(t.height for t in thumbs) + MARGIN
    sheet = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title[0][-110:], INK, _font(20))
    draw.text((MARGIN, MARGIN + 26), title[1], INK, _font(16))
    if drawings:
        for i, name in enumerate(("from above", "from the side")):
            sheet.paste(draw_cameras(capture, name, report.rig), (MARGIN + i * (PANEL + MARGIN), top))
    draw.text((text_left, top), "warnings" if lines else "no warnings", WARN if lines else INK, _font(16))
    for i, line in enumerate(lines):
        draw.text((text_left, top + 26 + 18 * i), line, INK, _font(14))
    y = top + head + MARGIN
    for row in thumbs:
        sheet.paste(row, (MARGIN, y))
        y += row.height
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


# -- thumbnails ------------------------------------------------------------------------------------------------------


def _thumbnails(capture: Capture) -> list[Image.Image]:
    """One strip a camera: evenly spaced frames, masks outlined in red."""
    names = [n for n in capture.camera_names if "image" in capture.tracks[n].layers]
    shown = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, min(ROWS, len(names))).round().astype(int))]
    strips = []
    for name in shown:
        views = [v for v in capture.views if v.camera == name]
        columns = min(COLUMNS, len(views))
        width = (WIDTH - 2 * MARGIN) // COLUMNS
        picked = [views[i] for i in np.linspace(0, len(views) - 1, columns).round().astype(int)]
        long_side = max(2, int((width - 6) * max(1.0, views[0].height / views[0].width)))
        small = capture.resized(min(long_side, 2 * width))
        cells = [_thumbnail(small, small.view(name, v.frame), f"{name}  {v.frame}") for v in picked]
        strip = Image.new("RGB", (WIDTH - 2 * MARGIN, max(c.height for c in cells) + 6), PAPER)
        for i, cell in enumerate(cells):
            strip.paste(cell, (i * width, 0))
        strips.append(strip)
    return strips


def _thumbnail(small: Capture, view: View, label: str) -> Image.Image:
    pixels = small.image_u8(view).numpy().copy()
    mask = small.mask(view)
    if mask is not None:
        inside = mask.numpy()
        near = np.pad(inside, 1, mode="edge")
        core = near[:-2, 1:-1] & near[2:, 1:-1] & near[1:-1, :-2] & near[1:-1, 2:]
        pixels[inside & ~core] = (255, 0, 0)
    cell = Image.new("RGB", (view.width, view.height + 18), PAPER)
    cell.paste(Image.fromarray(pixels), (0, 18))
    ImageDraw.Draw(cell).text((0, 1), label, INK, _font(12))
    return cell


# -- cameras ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plane:
    """Where the world goes on a drawing: pixels = origin + scale * (basis @ x)."""

    basis: Tensor  # [2, 3]
    center: Tensor  # [2]
    scale: float

    def __call__(self, xyz: Tensor) -> list[tuple[float, float]]:
        flat = (xyz.double() @ self.basis.T - self.center) * self.scale
        return [(PANEL / 2 + float(x), PANEL / 2 - float(y)) for x, y in flat]


def draw_cameras(capture: Capture, name: str, rig: Rig | None = None) -> Image.Image:
    """Frusta, paths and points, orthographic, "from above" or "from the side".

    Up is the mean of the cameras' up; from above, the mean view looks up the drawing. A cross marks what they look at.
    """
    panel = Image.new("RGB", (PANEL, PANEL), (248, 248, 248))
    draw = ImageDraw.Draw(panel)
    shown = representative_views(capture, FRUSTA)
    size = _frustum_size(shown)
    plane = _plane(capture, shown, name == "from above", size)
    _draw_points(draw, capture, plane)
    index = {camera: i for i, camera in enumerate(capture.camera_names)}
    for camera in capture.camera_names:
        path = [v for v in capture.views if v.camera == camera]
        if not capture.is_static(camera):
            color = tuple((c + 255) // 2 for c in COLORS[index[camera] % len(COLORS)])
            draw.line(plane(torch.stack([_center(v) for v in path])), fill=color, width=2)
    if rig is not None and rig.look_at is not None:
        ((x, y),) = plane(torch.tensor([rig.look_at]))
        draw.line([(x - 7, y), (x + 7, y)], fill=INK)
        draw.line([(x, y - 7), (x, y + 7)], fill=INK)
    labelled = set()
    for view in shown:
        color = COLORS[index[view.camera] % len(COLORS)]
        corners = plane(_frustum(view, size))
        for a, b in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)):
            draw.line([corners[a], corners[b]], fill=color, width=2)
        if view.camera not in labelled and len(index) <= 24:
            labelled.add(view.camera)
            x, y = corners[0]
            draw.text((min(x + 5, PANEL - 60), y + 3), view.camera, color, _font(14))
    draw.text((8, 6), name, INK, _font(16))
    _scale_bar(draw, plane.scale, capture.units)
    return panel


def _center(view: View) -> Tensor:
    assert view.world_to_cam is not None
    return -(view.world_to_cam[:3, :3].T @ view.world_to_cam[:3, 3])


def _frustum_size(views: list[View]) -> float:
    centers = torch.stack([_center(v) for v in views])
    spread = float((centers - centers.median(0).values).norm(dim=-1).median())
    return 0.35 * spread if spread > 0 else 1.0


def _frustum(view: View, depth: float) -> Tensor:
    """The centre and the four corners of the picture at a depth, [5, 3] world."""
    assert view.world_to_cam is not None and view.K is not None
    w, h = float(view.width), float(view.height)
    pixels = torch.tensor([[0, 0, 1], [w, 0, 1], [w, h, 1], [0, h, 1]], dtype=torch.float64)
    rays = pixels @ torch.linalg.inv(view.K).T * depth
    points = torch.cat([torch.zeros(1, 3, dtype=torch.float64), rays])
    return (points - view.world_to_cam[:3, 3]) @ view.world_to_cam[:3, :3]


def _plane(capture: Capture, shown: list[View], from_above: bool, size: float) -> _Plane:
    poses = torch.stack([v.world_to_cam for v in shown if v.world_to_cam is not None])
    up = torch.nn.functional.normalize(-poses[:, 1, :3].mean(0), dim=0)
    ahead = poses[:, 2, :3].mean(0)
    ahead = ahead - up * (ahead @ up)
    if float(ahead.norm()) < 1e-3:  # cameras all round: any direction will do
        ahead = torch.linalg.cross(up, poses[0, 0, :3])
    ahead = torch.nn.functional.normalize(ahead, dim=0)
    basis = torch.stack([torch.linalg.cross(ahead, up), ahead, up])
    flat = torch.cat([_frustum(v, size) for v in shown]) @ basis.T
    low, high = flat.amin(0), flat.amax(0)
    if capture.points is not None:  # those that are no further than the rig is wide, three times, or most of them
        centers = torch.stack([_center(v) for v in shown])
        away = (capture.points.xyz.double() - centers.mean(0)).norm(dim=-1)
        reach = max(3.0 * float((centers - centers.mean(0)).norm(dim=-1).max()), float(away.quantile(0.6)))
        near = capture.points.xyz[away < reach].double() @ basis.T
        if len(near):
            step = max(1, len(near) // 2000)
            low = low.minimum(torch.quantile(near[::step], 0.02, dim=0))
            high = high.maximum(torch.quantile(near[::step], 0.98, dim=0))
    axes = [0, 1] if from_above else [1, 2]
    scale = (PANEL - 60) / max(float((high - low).max()), 1e-9)  # the same in both drawings
    return _Plane(basis[axes], ((low + high) / 2)[axes], scale)


def _draw_points(draw: ImageDraw.ImageDraw, capture: Capture, plane: _Plane) -> None:
    if capture.points is None:
        return
    step = max(1, len(capture.points) // 6000)
    places = plane(capture.points.xyz[::step])
    colors = capture.points.rgb
    for i, (x, y) in enumerate(places):
        if 0 <= x < PANEL and 0 <= y < PANEL:
            color = (170, 170, 170) if colors is None else tuple(int(255 * c) for c in colors[i * step])
            draw.point((x, y), fill=color)


def _scale_bar(draw: ImageDraw.ImageDraw, scale: float, units: str) -> None:
    target = 120 / scale
    power = 10.0 ** np.floor(np.log10(target))
    length = power * max(f for f in (1, 2, 5) if f * power <= target)
    pixels = length * scale
    draw.line([(12, PANEL - 14), (12 + pixels, PANEL - 14)], fill=INK, width=3)
    draw.text((12, PANEL - 36), f"{length:g} {units}", INK, _font(13))
