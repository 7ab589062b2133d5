"""The page on which people compare two results: one HTML file with its pictures in it, which opens without a network.

Sides are drawn at random; the page holds no name of a method or an item. Answers are kept by the browser and saved as
a JSON file; what stood left and right is in the key, which stays with whoever made the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from scene4d.errors import InputError
from scene4d.metrics.benchmark_items import Benchmark, Item, read_frames
from scene4d.metrics.vote_files import KEY_FORMAT, QUESTIONS, VERSION, VOTES_FORMAT
from scene4d.metrics.vote_script import PAGE

QUALITY = 92  # of the JPEG pictures
MIN_SHARE = 0.002  # of all pixels: a smaller region is not asked about


@dataclass(frozen=True)
class PageOptions:
    """What is asked of a voter."""

    pairs: int = 40
    seed: int = 0
    long_side: int = 480  # pixels; larger pictures are made smaller
    frames: int = 48  # at most, evenly chosen

    def __post_init__(self) -> None:
        for name, least in (("pairs", 1), ("long_side", 64), ("frames", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class Pair:
    """Two results of one item, as they stand on the page."""

    item: Item
    left: str
    right: str


def chosen_pairs(benchmark: Benchmark, results: dict[str, Path], options: PageOptions) -> list[Pair]:
    """Random items for all pairs of methods in turn, sides at random. Raises InputError: nothing can be compared."""
    random = np.random.default_rng(options.seed)
    queues = []
    for a, b in combinations(sorted(results), 2):
        both = [i for i in benchmark.items if all((results[m] / i.name).is_dir() for m in (a, b))]
        queues.append([(a, b, both[k]) for k in random.permutation(len(both))])
    turns = max((len(queue) for queue in queues), default=0)
    ordered = [queue[k] for k in range(turns) for queue in queues if k < len(queue)]
    if not ordered:
        raise InputError(f"{benchmark.folder}: no two of the results have an item in common")
    found = ordered[: options.pairs]
    sides = random.integers(0, 2, len(found))
    pairs = [Pair(i, b, a) if flip else Pair(i, a, b) for (a, b, i), flip in zip(found, sides, strict=True)]
    return [pairs[k] for k in random.permutation(len(pairs))]


def build_page(
    benchmark: Benchmark, results: dict[str, Path], pairs: Sequence[Pair], options: PageOptions
) -> tuple[bytes, dict[str, Any]]:
    """The page and its key. Raises InputError: frames are missing."""
    shown, key = [], {}
    for k, pair in enumerate(pairs):
        name = f"p{k + 1:03d}"
        roles = read_frames(pair.item.folder / "roles", pair.item, 1)
        asked = questions_of(roles)
        frames = np.unique(
            np.linspace(0, pair.item.frames - 1, min(options.frames, pair.item.frames)).round().astype(int)
        )
        sides = {"left": pair.left, "right": pair.right}
        clips = {
            s: _jpegs(read_frames(results[m] / pair.item.name, pair.item, 3), frames, options) for s, m in sides.items()
        }
        shown.append(
            {
                "id": name,
                "instruction": pair.item.instruction,
                "fps": pair.item.fps * len(frames) / pair.item.frames,
                "questions": asked,
                "source": _source(pair.item, frames, options),
                "roles": [_encoded(_small(roles[f].numpy(), options, cv2.INTER_NEAREST), ".png") for f in frames],
                **clips,
            }
        )
        key[name] = {"item": pair.item.name, "scene": pair.item.scene, "questions": asked, **sides}
    data = {"pairs": shown, "questions": {n: {"text": q.text, "regions": q.regions} for n, q in QUESTIONS.items()}}
    page = hashlib.sha256(json.dumps([data, options.seed]).encode()).hexdigest()[:16]
    data |= {"page": page, "format": VOTES_FORMAT, "version": VERSION}
    text = json.dumps(data).replace("</", "<\\/")  # an instruction cannot end the script
    html = PAGE.replace("__DATA__", text)
    return html.encode(), {
        "format": KEY_FORMAT,
        "version": VERSION,
        "page": page,
        "benchmark": benchmark.name,
        "pairs": key,
    }


def questions_of(roles: Tensor) -> list[str]:
    """Names of the questions that an item with these roles is asked."""
    shares = {k: float((roles == k).float().mean()) for k in (0, 1, 2)}
    return [n for n, q in QUESTIONS.items() if not q.regions or sum(shares[r] for r in q.regions) >= MIN_SHARE]


def _source(item: Item, frames: np.ndarray, options: PageOptions) -> list[str]:
    """Pictures of the source, of its first camera, spread over the clip."""
    import warnings

    from scene4d.captures import CaptureWarning, open_capture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        capture = open_capture(item.source)
    views = sorted((v for v in capture.views if v.camera == capture.camera_names[0]), key=lambda v: v.frame)
    chosen = [views[round(f / max(1, item.frames - 1) * (len(views) - 1))] for f in frames.tolist()]
    return [_jpeg(capture.image_u8(v).numpy(), options) for v in chosen]


def _jpegs(clip: Tensor, frames: np.ndarray, options: PageOptions) -> list[str]:
    return [_jpeg(clip[f].numpy(), options) for f in frames.tolist()]


def _jpeg(image: np.ndarray, options: PageOptions) -> str:
    return _encoded(_small(image, options, cv2.INTER_AREA)[..., ::-1], ".jpg")


def _small(image: np.ndarray, options: PageOptions, how: int) -> np.ndarray:
    scale = options.long_side / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def _encoded(image: np.ndarray, kind: str) -> str:
    done, data = cv2.imencode(
        kind, np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if kind == ".jpg" else []
    )
    assert done
    return base64.b64encode(data.tobytes()).decode()
