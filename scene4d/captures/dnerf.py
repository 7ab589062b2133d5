"""D-NeRF: transforms_{train,val,test}.json with times in [0, 1], RGBA images on white.

Poses are camera-to-world in OpenGL axes (x right, y up, z backward), as Blender writes them.
Source: albertpumarola/D-NeRF, bmild/nerf load_blender.
"""

from __future__ import annotations

from pathlib import Path

from scene4d.captures.assembly import ONE_SECOND, Entry, Notes, Timing, from_entries
from scene4d.captures.capture import Capture
from scene4d.captures.checks import inside, inverse, number, objects, read_object, rigid
from scene4d.captures.frames import image_header, require_files
from scene4d.captures.lens_files import named_lens

SPLITS = ("train", "val", "test")


def detect(root: Path) -> str | None:
    return "transforms_train.json" if (root / "transforms_train.json").is_file() else None


def read(root: Path) -> Capture:
    """A capture with one camera a split: the published ones teleport, so neighbouring times are far apart."""
    notes = Notes()
    entries: list[Entry] = []
    timed = True
    for split in SPLITS:
        path = root / f"transforms_{split}.json"
        if path.is_file():
            found, times_given = _read_split(root, path, split)
            entries += found
            timed = timed and times_given
    if timed:
        notes.add(f"{root.name}: times in [0, 1] without a frame rate: {ONE_SECOND}")
    else:
        notes.add(f"{root.name}: frames without times (a static scene?) are taken in file order: {ONE_SECOND}")
    views, tracks = from_entries(entries, Timing(seconds=True, mask_is_alpha=True), root.name, notes)
    return Capture(root=root, format="dnerf", views=views, tracks=tracks, notes=tuple(notes.lines))


def _read_split(root: Path, path: Path, split: str) -> tuple[list[Entry], bool]:
    data = read_object(path)
    frames = objects(data.get("frames"), f"{path.name}: frames")
    timed = all(f.get("time") is not None for f in frames)
    entries = []
    for i, frame in enumerate(frames):
        where = f"{path.name}: frame {i}"
        image = inside(root, frame.get("file_path"), f"{where}: file_path")
        image = image if image.suffix else image.with_name(image.name + ".png")
        if i == 0:
            require_files([image], "image")
            size = image_header(image)
        lens = named_lens({**data, **frame}, size, where)
        c2w = rigid(frame.get("transform_matrix"), f"{where}: transform_matrix")
        c2w[:, 1:3] *= -1.0  # OpenGL to OpenCV: y down, z forward
        time = number(frame["time"], f"{where}: time") if timed else i / max(1, len(frames) - 1)
        files = {"image": image, "mask": image if image.suffix.lower() == ".png" else None}
        entries.append(Entry(split, time, files, lens, inverse(c2w), where, split))
    return entries, timed
