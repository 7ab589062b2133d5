"""Where pictures come from: lists of image files and videos, read one at a time, kept in a small cache.

Layers of a camera: "image" (uint8 [H, W, 3]), "mask" (labels, uint8 or uint16 [H, W], 0 = background), "depth"
(float32 [H, W] z, 0 = none), "valid" and "covisible" (uint8 [H, W], 0 = leave out of comparisons).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import cv2
import numpy as np
from PIL import Image

from scene4d.captures.checks import image_size, read_npy
from scene4d.captures.lens import Lens, rectify_image, rectify_nearest
from scene4d.captures.video import VideoDecoder, VideoFile
from scene4d.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
DEPTH_SUFFIXES = (".npy", ".png", ".tif", ".tiff")
CACHE_BYTES = 256 << 20
OPEN_VIDEOS = 8  # a 2560x1920 decoder holds about 100 MB of reference frames


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """One file a frame; None where a frame has none (DyCheck has depth for training frames only)."""

    paths: tuple[Path | None, ...]
    depth_scale: float = 1.0  # file value to scene units
    from_alpha: bool = False  # a mask that is the alpha channel of the images

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def fps(self) -> None:
        """Files carry no frame rate."""
        return None

    def name(self, item: int) -> str:
        path = self.paths[item]
        return f"frame {item}" if path is None else path.name


Layer = ImageFiles | VideoFile


@dataclass(frozen=True, eq=False)
class CameraTrack:
    """One camera of a capture: its layers and its lens, which may change from frame to frame."""

    name: str
    layers: dict[str, Layer]
    lenses: tuple[Lens, ...]  # one, or one an item; empty without intrinsics

    def lens(self, item: int) -> Lens | None:
        if not self.lenses:
            return None
        return self.lenses[item if len(self.lenses) > 1 else 0]


def image_header(path: Path) -> tuple[int, int]:
    """Width and height of an image or .npy file, without decoding it."""
    if path.suffix.lower() == ".npy":
        shape = read_npy(path).shape
        return image_size(shape[1] if len(shape) > 1 else 0, shape[0] if shape else 0, str(path))
    try:
        with Image.open(path) as picture:
            return image_size(*picture.size, str(path))
    except FileNotFoundError as e:
        raise InputError(f"{path}: the frame is missing") from e
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise InputError(f"{path}: is not a readable image: {str(e)[:120]}") from e


def layer_size(layer: Layer) -> tuple[int, int]:
    """Width and height of a layer's first picture."""
    if isinstance(layer, VideoFile):
        return layer.width, layer.height
    first = next((p for p in layer.paths if p is not None), None)
    if first is None:
        raise InputError("a camera without any file has no size")
    return image_header(first)


def require_files(paths: Sequence[Path | None], what: str) -> None:
    """InputError that names the first missing file and counts the others."""
    missing = [p for p in paths if p is not None and not p.is_file()]
    if missing:
        more = f" (and {len(missing) - 1} more of {len(paths)})" if len(missing) > 1 else ""
        raise InputError(f"{missing[0]}: the {what} is missing{more}; copy it, or take the frame out of the list")


def list_images(folder: Path) -> list[Path]:
    """The images of a folder in the order of the numbers in their names."""
    found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    return sorted(found, key=natural_key)


def natural_key(path: Path | str) -> list:
    """frame_9 before frame_10, whatever the padding."""
    text = path.as_posix() if isinstance(path, Path) else path
    pieces, word = [], ""
    for ch in text:
        if word and ch.isdecimal() != word[-1].isdecimal():
            pieces.append(word)
            word = ""
        word += ch
    pieces.append(word)
    return [(0, int(p), "") if p.isdecimal() and len(p) < 19 else (1, 0, p) for p in pieces]


def _decode(path: Path, flags: int) -> np.ndarray:
    image_header(path)  # bounds the size before anything is allocated
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        found = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error) as e:
        raise InputError(f"{path}: cannot be decoded: {str(e)[:120]}") from e
    if found is None:
        raise InputError(f"{path}: cannot be decoded; is it truncated? copy it again")
    return found


def read_rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]; transparent pictures are put on white (D-NeRF's convention), 16 bits become 8."""
    found = _decode(path, cv2.IMREAD_UNCHANGED)
    if found.dtype == np.uint16:
        found = (found // 257).astype(np.uint8)
    if found.dtype != np.uint8:
        raise InputError(f"{path}: pixels of type {found.dtype} are not supported; convert it to 8 or 16 bits")
    if found.ndim == 2:
        return cv2.cvtColor(found, cv2.COLOR_GRAY2RGB)
    if found.shape[2] == 4:
        alpha = found[..., 3:].astype(np.uint16)
        mixed = (found[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
        found = mixed.astype(np.uint8)
    return cv2.cvtColor(found, cv2.COLOR_BGR2RGB)


def read_labels(path: Path, from_alpha: bool) -> np.ndarray:
    """uint8 or uint16 [H, W]: palette indices, grey values, any colour, or alpha over a half."""
    image_header(path)
    try:
        with Image.open(path) as picture:
            if from_alpha:
                return (np.asarray(picture.convert("RGBA"))[..., 3] >= 128).astype(np.uint8)
            if picture.mode == "1":
                return np.asarray(picture).astype(np.uint8)
            if picture.mode in ("P", "L"):  # a palette's index is the instance id, its colours mean nothing
                return np.asarray(picture)
            if picture.mode.startswith("I"):
                return np.clip(np.asarray(picture), 0, 65535).astype(np.uint16)
            return np.asarray(picture.convert("RGB")).max(-1)
    except (OSError, ValueError, SyntaxError) as e:
        raise InputError(f"{path}: is not a readable mask: {str(e)[:120]}") from e


def read_depth(path: Path, scale: float) -> np.ndarray:
    """float32 [H, W]; what is not finite or negative becomes 0 = none."""
    suffix = path.suffix.lower()
    if suffix not in DEPTH_SUFFIXES:
        raise InputError(f"{path}: depth must be {', '.join(DEPTH_SUFFIXES)}; convert it")
    found = read_npy(path) if suffix == ".npy" else _decode(path, cv2.IMREAD_UNCHANGED)
    if found.ndim == 3 and found.shape[2] == 1:
        found = found[..., 0]
    if found.ndim != 2:
        raise InputError(f"{path}: depth must have shape [H, W], got {list(found.shape)}")
    with np.errstate(over="ignore", invalid="ignore"):
        depth = np.multiply(found, scale, dtype=np.float64).astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


class FrameStore:
    """Decoded pictures at the size they are used in: a cache of bounded bytes over a few open decoders."""

    def __init__(self, cache_bytes: int = CACHE_BYTES, open_videos: int = OPEN_VIDEOS) -> None:
        self.cache_bytes = cache_bytes
        self.open_videos = open_videos
        self._cache: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._decoders: OrderedDict[Path, VideoDecoder] = OrderedDict()
        self._lock = RLock()

    def read(self, track: CameraTrack, layer: str, item: int, size: tuple[int, int]) -> np.ndarray | None:
        """A layer's picture, rectified and resized to (width, height); None where the frame has none."""
        key = (track.name, layer, item, size)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            raw = self._raw(track, layer, item)
            if raw is None:
                return None
            picture = self._fitted(raw, track, layer, item, size)
            picture.setflags(write=False)
            if picture.nbytes <= self.cache_bytes // 4:
                self._cache[key] = picture
                self._bytes += picture.nbytes
            while self._bytes > self.cache_bytes:
                self._bytes -= self._cache.popitem(last=False)[1].nbytes
            return picture

    def close(self) -> None:
        """Closes the videos and forgets the pictures; reading opens them again."""
        with self._lock:
            for decoder in self._decoders.values():
                decoder.close()
            self._decoders.clear()
            self._cache.clear()
            self._bytes = 0

    def _raw(self, track: CameraTrack, layer: str, item: int) -> np.ndarray | None:
        source = track.layers.get(layer)
        if source is None:
            return None
        if isinstance(source, VideoFile):
            frame = self._decoder(source).read(item)
            return frame if layer == "image" else (frame.max(-1) >= 128).astype(np.uint8)
        path = source.paths[item]
        if path is None:
            return None
        if not path.is_file():
            raise InputError(f"{path}: the {layer} of frame {item} is missing; copy it again")
        if layer == "image":
            return read_rgb(path)
        return read_depth(path, source.depth_scale) if layer == "depth" else read_labels(path, source.from_alpha)

    def _decoder(self, file: VideoFile) -> VideoDecoder:
        decoder = self._decoders.pop(file.path, None) or VideoDecoder(file)
        self._decoders[file.path] = decoder
        while len(self._decoders) > self.open_videos:
            self._decoders.popitem(last=False)[1].close()
        return decoder

    def _fitted(self, raw: np.ndarray, track: CameraTrack, layer: str, item: int, size: tuple[int, int]) -> np.ndarray:
        lens = track.lens(item) or Lens(raw.shape[1], raw.shape[0], 1.0, 1.0, 0.0, 0.0)
        if raw.shape[:2] != (lens.height, lens.width):
            raw = _matched(raw, lens, layer, f"camera {track.name}: {track.layers[layer].name(item)}")
        return rectify_image(lens, raw, size) if layer == "image" else rectify_nearest(lens, raw, size)


def _matched(raw: np.ndarray, lens: Lens, layer: str, where: str) -> np.ndarray:
    """Masks and depth may be smaller than the images (LiDAR); images may not differ from each other."""
    height, width = raw.shape[:2]
    same_shape = abs(width * lens.height - height * lens.width) <= max(width, height) * 2
    if layer == "image" or not same_shape:
        raise InputError(
            f"{where}: is {width}x{height}, the camera {lens.width}x{lens.height}: mixed sizes; resize it or its camera"
        )
    return cv2.resize(raw, (lens.width, lens.height), interpolation=cv2.INTER_NEAREST_EXACT)
