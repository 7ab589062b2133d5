"""Videos that play everywhere (H.264) or go into post-production (ProRes), with colour tags that decoders believe.

H W pixels.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from av.video.stream import VideoStream

from scene4d.errors import InputError
from scene4d.files.atomic import TEMPORARY_SUFFIX, sync_folder
from scene4d.files.images import to_integers

# suffix -> encoder, its pixels, pixels that go in, options.
# mp4: 8 bits, 4:2:0: what browsers, phones and slides play; crf 14 is hard to tell from the source.
# mov: ProRes 422 HQ, 10 bits (ASWF encoding guidelines); apl0: the vendor that editing programs expect.
CODECS = {
    ".mp4": ("libx264", "yuv420p", "rgb24", {"crf": "14", "preset": "medium"}),
    ".mov": ("prores_ks", "yuv422p10le", "rgb48le", {"profile": "3", "vendor": "apl0"}),
}
MAX_FPS = 1000
# without these flags swscale takes short cuts in the arithmetic of colours
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class VideoWriter:
    """Encodes one video, frame by frame; owns an encoder and a temporary file beside `path`.

    The video gets its name when `close` has written all of it, so nothing else ever bears it. Used with `with`: an
    exception removes what there is. Both sides of the picture are made even by repeating the last column and row
    (`padded`): H.264 in 4:2:0 has one colour for two by two pixels.
    """

    def __init__(self, path: Path, width: int, height: int, fps: float) -> None:
        """Raises ValueError: an unknown suffix, sizes or `fps` out of range. InputError: it cannot be written."""
        if path.suffix.lower() not in CODECS:
            raise ValueError(f"path must end in {' or '.join(CODECS)}, got {path.name}")
        if min(width, height) < 1 or not 0 < fps <= MAX_FPS:
            raise ValueError(f"width, height and fps must be above 0, fps at most {MAX_FPS}, got {width, height, fps}")
        if not path.parent.is_dir():  # the encoder opens its file only with the first frame
            raise InputError(f"{path}: cannot be written: there is no folder {path.parent}")
        codec, pixels, self._source, options = CODECS[path.suffix.lower()]
        self.path, self.width, self.height = path, width, height
        self.padded = (width + width % 2, height + height % 2)
        self._frames = 0
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
        self._pixels = pixels
        try:
            name = "mp4" if path.suffix.lower() == ".mp4" else "mov"
            # faststart: the index stands first, so that a browser shows the first frame before it has all
            self._container = av.open(str(self._temporary), "w", format=name, options={"movflags": "+faststart"})
        except (FFmpegError, OSError) as e:
            raise InputError(f"{path}: cannot be written: {e.strerror or e}") from e
        stream = cast(VideoStream, self._container.add_stream(codec, rate=frame_rate(fps), options=options))
        stream.width, stream.height = self.padded
        stream.pix_fmt = pixels
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._stream = stream

    def add(self, image: np.ndarray) -> None:
        """The next frame [H, W, 3]: floats in [0, 1], clipped, or uint8.

        Raises ValueError: a wrong shape. InputError: the disk is full.
        """
        if image.shape != (self.height, self.width, 3):
            raise ValueError(f"image must have shape [{self.height}, {self.width}, 3], got {list(image.shape)}")
        eight = self._source == "rgb24"
        if image.dtype == np.uint8:
            values = image if eight else image.astype(np.uint16) * 257  # 255 is 65535
        else:
            values = to_integers(image, 255 if eight else 65535)
        columns, rows = self.padded[0] - self.width, self.padded[1] - self.height
        values = np.pad(values, ((0, rows), (0, columns), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(cast(Any, values), format=self._source).reformat(
            format=self._pixels,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=SCALING,
        )
        frame.pts, frame.time_base = self._frames, 1 / cast(Fraction, self._stream.codec_context.framerate)
        self._frames += 1
        self._mux(frame)

    def close(self) -> None:
        """Finish the video and give it its name. Raises InputError: it has no frames, or cannot be written."""
        try:
            if not self._frames:
                raise InputError(f"{self.path}: a video needs at least one frame")
            self._mux(None)
            self._container.close()
            with self._temporary.open("rb+") as file:
                os.fsync(file.fileno())
            self._temporary.replace(self.path)
            sync_folder(self.path.parent)
        except (FFmpegError, OSError) as e:
            raise InputError(f"{self.path}: cannot be written: {e.strerror or e}") from e
        finally:
            self.discard()

    def discard(self) -> None:
        """Give up: what has been written goes."""
        with contextlib.suppress(FFmpegError, OSError):
            self._container.close()
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def _mux(self, frame: av.VideoFrame | None) -> None:
        try:
            self._container.mux(self._stream.encode(frame))
        except (FFmpegError, OSError) as e:
            raise InputError(f"{self.path}: cannot be written: {e.strerror or e}") from e

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close() if kind is None else self.discard()


def frame_rate(fps: float) -> Fraction:
    """The rate as a fraction; 23.976, 29.97 and 59.94 are n 1000/1001, as television means them."""
    whole = math.ceil(fps)
    ntsc = Fraction(whole * 1000, 1001)
    if abs(fps - float(ntsc)) < 1e-3 and whole - fps > 1e-6:
        return ntsc
    return Fraction(fps).limit_denominator(1000)
