"""A small benchmark whose numbers are known, written by hand of the format: for tests of readers and commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

T, H, W = 4, 32, 40
SIZE = (T, H, W)


def save(folder: Path, frames: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{t:05d}.png")


def truth_frames() -> np.ndarray:
    """[T, H, W, 3] uint8, the same still picture in all frames."""
    picture = np.random.default_rng(0).integers(40, 200, (1, H, W, 3), np.uint8)
    return np.repeat(picture, T, 0)


def roles() -> np.ndarray:
    """Preserve but for a square of Reveal and a strip of Expand."""
    found = np.zeros(SIZE, np.uint8)
    found[:, 8:20, 8:20] = 1
    found[:, :, 34:] = 2
    return found


def write_benchmark(folder: Path, names: tuple[str, ...] = ("one.remove.small", "two.move.large")) -> Path:
    """Items with truth, roles, no band, a still flow and what stood there before; the source is a folder of frames."""
    for name in names:
        scene, kind, magnitude = name.split(".")
        source, item = folder / "sources" / scene, folder / "items" / name
        save(source / "images", truth_frames())
        save(item / "truth", truth_frames())
        save(item / "roles", roles())
        stale = truth_frames()
        stale[:, 8:20, 8:20] = 250
        save(item / "stale", stale)
        flow, visible = np.zeros((*SIZE, 2), np.float16), np.ones(SIZE, bool)
        np.savez(item / "geometry.npz", flow=flow, visible=visible)
        facts = {
            "format": "scene4d-benchmark-item",
            "version": 1,
            "name": name,
            "scene": scene,
            "kind": kind,
            "magnitude": magnitude,
            "origin": "world",
            "instruction": "Remove </script> the thing.",
            "source": f"../../sources/{scene}",
            "frames": T,
            "width": W,
            "height": H,
            "fps": 10.0,
            "times": [t / 10 for t in range(T)],
            "edit": [{"op": kind, "instance": 1}],
            "band": 3,
        }
        (item / "item.json").write_text(json.dumps(facts))
    listed = {"format": "scene4d-benchmark", "version": 1, "name": "tiny", "items": list(names)}
    (folder / "benchmark.json").write_text(json.dumps(listed))
    return folder


def changed(path: Path, **values: object) -> None:
    """Change keys of a JSON file; None takes one away."""
    data = json.loads(path.read_text())
    data.update(values)
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))
