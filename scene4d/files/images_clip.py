"""The frames of a clip as a video, or as a folder of videos, pictures or data with a render.json beside them.

out.mp4                         one channel
out/depth.mp4, out/rgb.mp4      several
out/depth/00000.png             frames; also .exr and .npy
out/render.json                 fps, size, what the numbers and colours mean, time and camera of every frame
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from scene4d.errors import InputError
from scene4d.files.atomic import TEMPORARY_SUFFIX, make_folder, sync_folder, write_atomic, write_json
from scene4d.files.images import coding, encode, exr_planes, npy_bytes, png_bytes
from scene4d.files.images_shown import Ranges, shown
from scene4d.files.video import VideoWriter

INDEX, FORMAT, VERSION = "render.json", "scene4d-render", 1
VIDEOS = ("mp4", "mov")
KINDS = ("png", "png16", "exr", "npy", *VIDEOS)


@dataclass(frozen=True)
class Form:
    """What is written."""

    kind: str  # one of KINDS
    channels: tuple[str, ...]  # of scene4d.channels
    width: int
    height: int
    fps: float


def check_place(out: Path, is_file: bool, overwrite: bool) -> None:
    """Raise InputError where `out` stands in the way, or cannot be made.

    Only a folder with a render.json of ours is ever replaced.
    """
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}")
    if not out.exists() or (out.is_dir() and not is_file and not any(out.iterdir())):
        return
    if is_file != out.is_file():
        raise InputError(f"{out}: is there already and is {'a folder' if out.is_dir() else 'a file'}")
    if not is_file and not _is_ours(out):
        raise InputError(f"{out}: holds other things than a rendering; choose another folder")
    if not overwrite:
        raise InputError(f"{out}: is there already; --overwrite replaces it")


def depth_unit(farthest: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten of which 65535 reach `farthest` scene units."""
    if not 0 < farthest < math.inf:
        return 1.0
    power = 10.0 ** math.floor(math.log10(farthest / 65535))
    return next(step * power for step in (1, 2, 5, 10) if step * power * 65535 >= farthest)


class ClipWriter:
    """Writes the frames of a clip; owns open encoders and a temporary folder.

    `out` is a video where it ends like one, else a folder, which gets its name when `finish` has written all of it;
    what stood there before is replaced. Used with `with`; leaving it without `finish` removes what there is.
    """

    def __init__(self, out: Path, form: Form, ranges: Ranges, unit: float) -> None:
        """Colours span `ranges`; 16-bit depths count `unit`. Raises as `VideoWriter`; InputError: no such folder."""
        self.out, self.form, self.ranges, self.unit = out, form, ranges, unit
        self.clipped: dict[str, int] = {}  # pixels beyond what 16 bits hold, by channel
        self.padded: tuple[int, int] | None = None  # size of the videos where it is not that of the frames
        self._frames = 0
        self._single = form.kind in VIDEOS and out.suffix.lower() == f".{form.kind}"
        self._videos: dict[str, VideoWriter] = {}
        self._folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
        try:
            self._begin()
        except BaseException:
            self._remove()
            raise

    def add(self, maps: Mapping[str, np.ndarray]) -> None:
        """The next frame: maps [H, W, ...] of the channels, or of some of them. Raises InputError: the disk is full."""
        for channel, values in maps.items():
            if channel in self._videos:
                self._videos[channel].add(shown(channel, values, self.ranges))
            else:
                suffix = "png" if self.form.kind == "png16" else self.form.kind
                write_atomic(self._folder / channel / f"{self._frames:05d}.{suffix}", self._encoded(channel, values))
        self._frames += 1

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Close everything and give it its name. `facts` go into render.json. Raises InputError."""
        for video in self._videos.values():
            video.close()
        if self._single:
            return
        form = self.form
        index = {
            "format": FORMAT,
            "version": VERSION,
            "kind": form.kind,
            "width": form.width,
            "height": form.height,
            "fps": form.fps,
            "channels": {channel: self._meaning(channel) for channel in form.channels},
        }
        write_json(self._folder / INDEX, index | dict(facts))
        self._replace()

    def _begin(self) -> None:
        if not self._single:
            make_folder(self._folder)
        for channel in self.form.channels:
            if self.form.kind in VIDEOS:
                self._open(channel)
            else:
                make_folder(self._folder / channel)

    def _remove(self) -> None:
        """What has no final name yet."""
        for video in self._videos.values():
            video.discard()
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder)

    def _open(self, channel: str) -> None:
        form = self.form
        path = self.out if self._single else self._folder / f"{channel}.{form.kind}"
        video = VideoWriter(path, form.width, form.height, form.fps)
        self._videos[channel] = video
        if video.padded != (form.width, form.height):
            self.padded = video.padded

    def _encoded(self, channel: str, values: np.ndarray) -> bytes:
        if self.form.kind == "npy":
            return npy_bytes(values)
        if self.form.kind == "exr":
            from scene4d.files.exr import exr_bytes  # openexr is optional

            return exr_bytes(exr_planes(channel, values))
        if self.form.kind == "png":
            return png_bytes(shown(channel, values, self.ranges))
        coded = encode(channel, values, self.unit)
        if coded.clipped:
            self.clipped[channel] = self.clipped.get(channel, 0) + coded.clipped
        return png_bytes(coded.values)

    def _meaning(self, channel: str) -> dict[str, Any]:
        """How to read a channel's files."""
        kind = self.form.kind
        if kind == "png16":
            return coding(channel, self.unit) | {"clipped_pixels": self.clipped.get(channel, 0)}
        if kind in ("exr", "npy"):
            return {"values": "as they are"}
        if channel == "depth":
            return {"near": self.ranges.near, "far": self.ranges.far, "colors": "turbo over 1/depth, near is red"}
        if channel == "flow":
            return {"full_at_pixels": self.ranges.flow, "colors": "Middlebury wheel"}
        return {}

    def _replace(self) -> None:
        """The finished folder in the place of what stands there."""
        old = self._folder.with_name(self._folder.name.replace(TEMPORARY_SUFFIX, f".old{TEMPORARY_SUFFIX}"))
        try:
            if self.out.exists():
                self.out.rename(old)
            self._folder.rename(self.out)
            sync_folder(self.out.parent)
        except OSError as e:
            raise InputError(f"{self.out}: cannot be written: {e.strerror or e}") from e
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._remove()


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / INDEX).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
