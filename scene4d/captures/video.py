"""Frames of a video by number: exact seeking, one decoder, nothing kept.

A video is scanned once without decoding: its packets' time stamps in presentation order are its frames. Reading frame
i decodes forward from the last frame read, or from the key frame before i where that is nearer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.error import FFmpegError

from scene4d.captures.checks import image_size
from scene4d.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")


@dataclass(frozen=True, eq=False)
class VideoFile:
    """What a scan found in a video. Frames count from 0 in presentation order."""

    path: Path
    width: int  # as displayed: after the rotation that phones write beside the picture
    height: int
    fps: float | None
    stamps: np.ndarray  # [T] int64 time stamps in presentation order; frame numbers where the file has none
    keys: np.ndarray  # int64 time stamps of the key frames, ascending
    time_base: Fraction
    has_stamps: bool  # else frames can only be counted from the start

    def __len__(self) -> int:
        return len(self.stamps)

    def name(self, item: int) -> str:
        return f"{self.path.name} frame {item}"

    def steady(self) -> bool:
        """Whether frames are evenly spaced (within a tenth of a frame)."""
        gaps = np.diff(self.stamps)
        return len(gaps) == 0 or bool(np.abs(gaps - np.median(gaps)).max() <= 0.1 * np.median(gaps) + 1)


def scan_video(path: Path) -> VideoFile:
    """Counts and finds the frames of a video. Raises InputError for an unreadable, empty or truncated one."""
    if not path.is_file():
        raise InputError(f"{path}: the video is missing")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream")
            return _scan(path, container)
    except FFmpegError as e:
        raise InputError(f"{path}: is not a readable video ({e.strerror or e}); is it truncated? copy it again") from e


def _scan(path: Path, container: InputContainer) -> VideoFile:
    stream = container.streams.video[0]
    promised, time_base = stream.frames, stream.time_base or Fraction(1, 1000)
    stamps, keys, cut = [], [], 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise InputError(f"{path}: is damaged at frame {len(stamps)} of {promised or '?'}; copy it again")
        if packet.is_keyframe and packet.pts is not None:
            keys.append(packet.pts)
        if packet.is_discard:  # an edit list cuts it: decoded, never shown
            cut += 1
        else:
            stamps.append(packet.pts)
    if not stamps:
        raise InputError(f"{path}: holds no frames")
    if len(stamps) + cut < promised:
        raise InputError(f"{path}: holds {len(stamps)} of the {promised} frames its header promises: it is truncated")
    has_stamps = None not in stamps and len(set(stamps)) == len(stamps) and bool(keys)
    context = stream.codec_context
    width, height = image_size(context.width, context.height, str(path))
    if _rotation(path) % 2:
        width, height = height, width
    rate = stream.average_rate or stream.guessed_rate
    return VideoFile(
        path=path,
        width=width,
        height=height,
        fps=float(rate) if rate else None,
        stamps=np.array(sorted(stamps) if has_stamps else range(len(stamps)), np.int64),
        keys=np.array(sorted(keys) if has_stamps else [], np.int64),
        time_base=time_base,
        has_stamps=has_stamps,
    )


def _rotation(path: Path) -> int:
    """Quarter turns, counter-clockwise, that bring the stored picture upright; a decoded frame tells them."""
    with av.open(str(path)) as container:
        for frame in container.decode(container.streams.video[0]):
            return round(frame.rotation / 90) % 4
    raise InputError(f"{path}: no frame can be decoded; is it truncated? copy it again")


class VideoDecoder:
    """Reads frames of one video as uint8 [H, W, 3]; owns an open file and its decoder."""

    def __init__(self, file: VideoFile) -> None:
        self.file = file
        self._container: InputContainer | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = 0  # the frame number that the iterator gives next

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def read(self, item: int) -> np.ndarray:
        if not 0 <= item < len(self.file):
            raise InputError(f"{self.file.path}: has frames 0 to {len(self.file) - 1}, frame {item} was asked for")
        try:
            frame = self._find(item)
            rgb = frame.to_ndarray(format="rgb24")  # with the matrix and range that the file is tagged with
        except FFmpegError as e:
            self.close()
            raise InputError(f"{self.file.path}: frame {item} cannot be decoded ({e.strerror or e})") from e
        turned = np.rot90(rgb, round(frame.rotation / 90) % 4)
        if turned.shape[:2] != (self.file.height, self.file.width):
            size = f"{self.file.width}x{self.file.height}"
            raise InputError(
                f"{self.file.path}: frame {item} is {turned.shape[1]}x{turned.shape[0]}, others {size}: mixed sizes"
            )
        return np.ascontiguousarray(turned)

    def _find(self, item: int) -> av.VideoFrame:
        if self._container is None or not self._forward_is_best(item):
            self._seek(item)
        if not self.file.has_stamps:
            return self._count_to(item)
        target = int(self.file.stamps[item])
        for frame in self._frames:
            if frame.pts is not None and frame.pts >= target:
                if frame.pts > target:
                    break
                self._next = item + 1
                return frame
        self.close()
        raise InputError(f"{self.file.path}: frame {item} cannot be decoded: damaged or truncated; copy it again")

    def _count_to(self, item: int) -> av.VideoFrame:
        for frame in self._frames:
            self._next += 1
            if self._next == item + 1:
                return frame
        self.close()
        raise InputError(f"{self.file.path}: ends before frame {item}; is it truncated?")

    def _forward_is_best(self, item: int) -> bool:
        if item < self._next or not self.file.has_stamps:
            return item >= self._next
        stamps, keys = self.file.stamps, self.file.keys
        key = keys[max(0, np.searchsorted(keys, stamps[item], side="right") - 1)]
        return bool(key <= stamps[min(self._next, len(stamps) - 1)])

    def _seek(self, item: int) -> None:
        """Puts the iterator at or before frame `item`."""
        container = self._container = self._container or _open(self.file.path)
        stream = container.streams.video[0]
        if not self.file.has_stamps:
            container.seek(0)
            self._frames, self._next = container.decode(stream), 0
            return
        target = self.file.stamps[item]
        last = int(np.searchsorted(self.file.keys, target, side="right")) - 1
        # some files flag frames as key frames that cannot start a decoder: then start one key frame earlier
        for back in (0, 1, 2, 4, 8, len(self.file.keys)):
            key = int(self.file.keys[max(0, last - back)])
            container.seek(key, stream=stream)
            frames = container.decode(stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= target:
                self._frames = _chain(first, frames)
                self._next = int(np.searchsorted(self.file.stamps, first.pts))
                return
            if last - back <= 0:
                break
        self.close()
        raise InputError(f"{self.file.path}: cannot seek to frame {item}; re-encode the video with regular key frames")


def _open(path: Path) -> InputContainer:
    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = min(4, torch.get_num_threads())
    return container


def _chain(first: av.VideoFrame, rest: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    yield first
    yield from rest
