"""`scene4d render`: a scene along a camera path or from its capture's cameras, as videos, pictures or data."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from scene4d.commands.render_clip import Clip, background, make_clip, pair
from scene4d.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from scene4d.edits import EditedScene
    from scene4d.files.images_clip import ClipWriter
    from scene4d.files.images_shown import Ranges
    from scene4d.scene import Scene4D

CHANNELS = ("rgb", "depth", "alpha", "flow", "normal", "label", "id")  # of scene4d.channels, which imports torch
SHOWN_FORMATS, VIDEOS = ("png", "mp4", "mov"), ("mp4", "mov")
PREVIEW_SIDE, PREVIEW_FRAMES = 160, 8  # of the renderings that the ranges of colours come from
RANGE_SHARE = 0.99  # of the preview's pixels lie within the range
DEPTH_HEADROOM = 2.0  # 16-bit depth reaches this many times as far as the preview's farthest pixel


@dataclass(frozen=True)
class Config:
    """Render a project along a camera path or from its capture's cameras (docs/rendering.md).

    --out FILE.mp4 or FILE.mov takes one channel; a folder gets CHANNEL.mp4, or CHANNEL/00000.png and so on, and a
    render.json that says what the numbers mean. Nothing bears the final name before all of it is done.
    """

    project: Annotated[Path, tyro.conf.Positional]
    """The project folder, NAME.s4d."""
    out: Path
    """A video (.mp4, or .mov for ProRes), or a folder."""
    camera_path: Path | None = None
    """A camera path: ours or nerfstudio's JSON, or edits:NAME, one kept beside the edits. The clip lasts as long."""
    capture_camera: str | None = None
    """A camera of the capture, or A:B:0.5 for the view halfway between two."""
    times: str | None = None
    """Seconds of the scene, first:last. Default: the path's own, else the range of the capture."""
    fps: float | None = None
    """Frames a second. Default: the project's; for a capture camera without --times, its own frames."""
    speed: float = 1.0
    """Seconds of the scene in a second of the clip."""
    width: int | None = None
    """Pixels. Default: the path's or camera's. The vertical field of view stays."""
    height: int | None = None
    """Pixels."""
    long_side: int | None = None
    """Pixels of the longer side, instead of width and height."""
    channels: str = "rgb"
    """Any of rgb,depth,alpha,flow,normal,label,id. Flow is that to the next frame of the clip: the last has none."""
    format: Literal["png", "png16", "exr", "npy", "mp4", "mov"] | None = None
    """png, mp4, mov: pictures. png16, exr, npy: numbers. Default: by the name of --out; mp4 for a folder."""
    background: str = "black"
    """black, white or r,g,b from 0 to 1."""
    exposure: bool = False
    """Show colours as the capture camera does: with its fitted exposure."""
    depth_range: str | None = None
    """near:far of the colours of depth. Default: from the clip."""
    flow_range: float | None = None
    """Pixels at which the colours of flow are full. Default: from the clip."""
    edits: bool = True
    """Render the scene with its edits; --no-edits: as it was fitted."""
    backend: Literal["auto", "cpu", "torch", "gsplat"] = "auto"
    """auto: gsplat where CUDA and gsplat are there, else cpu. torch is slow."""
    overwrite: bool = False
    """Replace a video, or a folder that this command has written."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        if (self.camera_path is None) == (self.capture_camera is None):
            raise ValueError("exactly one of --camera-path and --capture-camera must be given")
        if self.long_side is not None and (self.width or self.height):
            raise ValueError("--long-side must not be given together with --width or --height")
        if self.exposure and self.capture_camera is None:
            raise ValueError("--exposure needs --capture-camera")
        unknown = [name for name in self.names if name not in CHANNELS]
        if unknown or len(set(self.names)) < len(self.names):
            raise ValueError(f"channels must be some of {','.join(CHANNELS)}, each once, got {self.channels!r}")
        if self.is_file and len(self.names) > 1:
            raise ValueError(f"--out {self.out.name} holds one channel; name a folder for {self.channels}")
        if self.is_file and self.out.suffix.lower() != f".{self.kind}":
            raise ValueError(f"--out {self.out.name} and --format {self.format} must agree")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.channels.split(","))

    @property
    def kind(self) -> str:
        """The format: given, or by the name of `out`."""
        suffix = self.out.suffix.lower().removeprefix(".")
        return self.format or (suffix if suffix in VIDEOS else "mp4")

    @property
    def is_file(self) -> bool:
        return self.out.suffix.lower().removeprefix(".") in VIDEOS


def _check_numbers(config: Config) -> None:
    for name in ("fps", "speed", "flow_range"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, got {value}")
    for name in ("width", "height", "long_side"):
        value = getattr(config, name)
        if value is not None and not 1 <= value <= 16384:
            raise ValueError(f"{name} must be 1 to 16384, got {value}")
    if config.times is not None:
        first, last = pair(config.times, "times")
        if first > last:
            raise ValueError(f"times must be first:last with first <= last, got {config.times!r}")
    if config.depth_range is not None:
        near, far = pair(config.depth_range, "depth_range")
        if not 0 < near < far:
            raise ValueError(f"depth_range must be near:far with 0 < near < far, got {config.depth_range!r}")
    background(config.background)


def main(config: Config) -> int:
    import torch  # not at the top: `scene4d render --help` does without
    from rich.console import Console
    from rich.progress import Progress

    from scene4d.edits import load_edited
    from scene4d.files.project import load_project

    _check_out(config)
    project = load_project(config.project)
    kept = str(config.camera_path or "").startswith("edits:")
    edited = load_edited(project, config.project) if config.edits or kept else None
    clip = make_clip(config, project, edited.paths if edited is not None else None)
    if "flow" in config.names and len(clip.times) < 2:
        raise InputError("channel flow needs two frames, the clip has one; give --times, or a longer path")
    scene = edited if edited is not None and config.edits else project.scene
    scene = scene.to("cuda") if _on_gpu(config.backend) else scene
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    with torch.no_grad(), Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("rendering", total=len(clip.times))
        ranges = _ranges(config, scene, clip)
        writer = _writer(config, clip, ranges)
        with writer:
            for k in range(len(clip.times)):
                writer.add(_frame(config, scene, clip, k, config.names))
                progress.advance(task)
            writer.finish(_index(config, clip, project.units))
    _tell(console, config, clip, ranges, writer)
    if project.edits and not config.edits:
        console.print("as it was fitted: the edits are left out")
    return 0


def _on_gpu(backend: str) -> bool:
    from importlib.util import find_spec

    import torch

    there = torch.cuda.is_available() and find_spec("gsplat") is not None
    if backend == "gsplat" and not there:
        raise InputError("--backend gsplat needs a CUDA GPU and the package gsplat; `scene4d doctor` tells more")
    return there and backend in ("auto", "gsplat")


# -- rendering ---------------------------------------------------------------------------------------------------------


def _frame(
    config: Config, scene: Scene4D | EditedScene, clip: Clip, k: int, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """The channels of frame k, without the camera axis; the last frame has no flow."""
    import torch

    from scene4d.channels import render_channels

    last = k + 1 == len(clip.times)
    wanted = tuple(name for name in names if name != "flow" or not last)
    if not wanted:
        return {}
    maps = render_channels(
        scene,
        clip.frame(k),
        clip.times[k],
        wanted,
        t_next=None if last else clip.times[k + 1],
        next_cameras=None if last else clip.frame(k + 1),
        background=torch.tensor(background(config.background)),
        backend=config.backend,
    )
    if clip.exposure is not None and "rgb" in maps:
        exposure = clip.exposure.to(maps["rgb"])
        maps["rgb"] = maps["rgb"] @ exposure[:, :3].T + exposure[:, 3]
    return {name: x[0].cpu().numpy() for name, x in maps.items()}


def _ranges(config: Config, scene: Scene4D | EditedScene, clip: Clip) -> Ranges:
    """What the colours of depth and flow stand for: as told, else from a few small renderings along the clip."""
    from scene4d.files.images_shown import Ranges
    from scene4d.paths import resized

    names = tuple(name for name in ("depth", "flow") if name in config.names)
    if not names:
        return Ranges()
    c = clip.cameras
    scale = min(PREVIEW_SIDE / max(c.width, c.height), 1.0)
    small = resized(c, max(round(c.width * scale), 1), max(round(c.height * scale), 1))
    preview = Clip(clip.times, small, clip.fps)
    count = max(len(clip.times) - ("depth" not in names), 1)
    picked = sorted({round(i * (count - 1) / max(PREVIEW_FRAMES - 1, 1)) for i in range(PREVIEW_FRAMES)})
    frames = [_frame(config, scene, preview, k, names) for k in picked]
    near, far = _spread([f["depth"] for f in frames if "depth" in f], low=1 - RANGE_SHARE)
    if config.depth_range is not None:
        near, far = pair(config.depth_range, "depth_range")
    speeds = [(f["flow"] ** 2).sum(-1) ** 0.5 / small.height * c.height for f in frames if "flow" in f]
    return Ranges(near, far, config.flow_range or _spread(speeds, low=0.0)[1])


def _spread(maps: list[np.ndarray], low: float) -> tuple[float, float]:
    """The range that holds what is above 0, but for a few; never empty."""
    import numpy as np

    values = np.concatenate([x[x > 0] for x in maps]) if maps else np.ones(1)
    if not values.size:
        return 0.5, 1.0
    a, b = (float(x) for x in np.quantile(values.astype(np.float64), [low, RANGE_SHARE]))
    return (a, b) if b > a * (1 + 1e-3) else (a / 1.01, a * 1.01)


# -- output ------------------------------------------------------------------------------------------------------------


def _check_out(config: Config) -> None:
    """Refuse at once what would fail or replace the wrong thing after all the work."""
    from importlib.util import find_spec

    from scene4d.files.images_clip import check_place

    check_place(config.out, config.is_file, config.overwrite)
    if config.kind == "exr" and find_spec("OpenEXR") is None:
        raise InputError("--format exr needs OpenEXR: pip install 'scene4d[formats]'")


def _writer(config: Config, clip: Clip, ranges: Ranges) -> ClipWriter:
    from scene4d.files.images_clip import ClipWriter, Form, depth_unit

    c = clip.cameras
    form = Form(config.kind, config.names, c.width, c.height, clip.fps)
    return ClipWriter(config.out, form, ranges, depth_unit(DEPTH_HEADROOM * ranges.far))


def _index(config: Config, clip: Clip, units: str) -> dict[str, Any]:
    """What render.json tells besides the channels."""
    frames = [
        {"time": time, "world_to_cam": pose.tolist(), "K": K.tolist()}
        for time, pose, K in zip(clip.times, clip.cameras.world_to_cam, clip.cameras.K, strict=True)
    ]
    return {"project": config.project.name, "units": units, "frames": frames}


def _tell(console: Console, config: Config, clip: Clip, ranges: Ranges, writer: ClipWriter) -> None:
    c, count = clip.cameras, len(clip.times)
    size = f"{count} frame{'s' * (count != 1)} of {c.width}x{c.height}"
    names = ", ".join(config.names)
    console.print(f"{config.out}: {names}; {size} at {clip.fps:g} fps, as {config.kind}", markup=False)
    if writer.padded is not None:
        width, height = writer.padded
        console.print(f"the video is {width}x{height}: sides must be even, the last column or row is repeated")
    if config.kind in SHOWN_FORMATS and "depth" in config.names:
        console.print(f"colours of depth: red {ranges.near:.4g}, blue {ranges.far:.4g}, even steps of 1/depth")
    if config.kind in SHOWN_FORMATS and "flow" in config.names:
        console.print(f"colours of flow: full at {ranges.flow:.4g} pixels a frame")
    for channel, pixels in writer.clipped.items():
        console.print(f"{channel}: {pixels} pixels are beyond what 16 bits hold; exr and npy hold all")
