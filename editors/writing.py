"""A finished clip on disk (docs/completion.md).

out.mp4, out.mov           the video alone
out/frames/00000.png ...   the frames
out/origin/00000.png ...   where each pixel's colour comes from: its place in the list `origins` of video.json
out/video.json             fps, size, cameras, times, shares of the origins, and what was asked for
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from editors.drawing import overview, result_picture
from editors.video import ORIGINS, VideoFrame
from scene4d.errors import InputError
from scene4d.files.atomic import TEMPORARY_SUFFIX, make_folder, sync_folder, write_atomic, write_json
from scene4d.files.images import png_bytes
from scene4d.files.video import CODECS, VideoWriter

INDEX, FORMAT, VERSION = "video.json", "scene4d-video", 1


def is_video(out: Path) -> bool:
    return out.suffix.lower() in CODECS


def check_place(out: Path, overwrite: bool) -> None:
    """Raise InputError where `out` stands in the way. Only a video, or a folder with a video.json of ours, is ever
    replaced."""
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent}")
    if not out.exists() or (out.is_dir() and not is_video(out) and not any(out.iterdir())):
        return
    if is_video(out) != out.is_file():
        raise InputError(f"{out}: is there already and is {'a folder' if out.is_dir() else 'a file'}")
    if out.is_dir() and not _is_ours(out):
        raise InputError(f"{out}: holds other things than a clip; choose another folder")
    if not overwrite:
        raise InputError(f"{out}: is there already; --overwrite replaces it")


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / INDEX).read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


class ClipWriter:
    """Writes the frames of a clip, and an overview of it where that is asked for.

    Nothing bears its name before `finish`. Used with `with`; leaving it without `finish` removes what there is.
    """

    def __init__(self, out: Path, overview_to: Path | None, fps: float) -> None:
        self.out, self.fps = out, fps
        self.frames: list[dict[str, Any]] = []
        self._overview_to = overview_to
        self._videos: dict[Path, VideoWriter] = {}
        self._folder = None
        if not is_video(out):
            self._folder = out.with_name(f".{out.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
            make_folder(self._folder / "frames")
            make_folder(self._folder / "origin")

    def add(self, frame: VideoFrame) -> None:
        """The next frame. Raises InputError: the disk is full."""
        picture = result_picture(frame)
        if self._folder is None:
            self._show(self.out, picture)
        else:
            name = f"{len(self.frames):05d}.png"
            write_atomic(self._folder / "frames" / name, png_bytes(picture))
            write_atomic(self._folder / "origin" / name, png_bytes(frame.origin.cpu().numpy()))
        if self._overview_to is not None:
            self._show(self._overview_to, overview(frame))
        self.frames.append(frame_facts(frame))

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Close everything and give it its name, with `facts` in a folder's video.json. Raises InputError."""
        if self._folder is not None:
            index = {"format": FORMAT, "version": VERSION, "fps": self.fps, "origins": list(ORIGINS), **facts}
            write_json(self._folder / INDEX, {**index, "frames": self.frames})
        for video in self._videos.values():
            video.close()
        if self._folder is not None:
            self._replace(self._folder)

    def _replace(self, folder: Path) -> None:
        old = folder.with_name(folder.name.replace(TEMPORARY_SUFFIX, f".old{TEMPORARY_SUFFIX}"))
        try:
            if self.out.exists():
                self.out.rename(old)
            folder.rename(self.out)
            sync_folder(self.out.parent)
        except OSError as e:
            raise InputError(f"{self.out}: cannot be written: {e.strerror or e}") from e
        shutil.rmtree(old, ignore_errors=True)

    def _show(self, path: Path, picture: np.ndarray) -> None:
        if path not in self._videos:
            height, width = picture.shape[:2]
            self._videos[path] = VideoWriter(path, width, height, self.fps)
        self._videos[path].add(picture)

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for video in self._videos.values():
            video.discard()
        if self._folder is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(self._folder)


def frame_facts(frame: VideoFrame) -> dict[str, Any]:
    """Time, camera and shares of the origins."""
    cue = frame.cue
    return {
        "time": cue.time,
        "world_to_cam": cue.camera.world_to_cam[0].tolist(),
        "K": cue.camera.K[0].tolist(),
        "shares": {name: float((frame.origin == k).float().mean()) for k, name in enumerate(ORIGINS)},
    }
