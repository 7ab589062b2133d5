"""What an edit does, as data: frozen dataclasses that are plain JSON. How it is done: `scene4d.edits.applying`.

Times are seconds of the scene as it is at the edit's place in the stack.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from scene4d.edits.checks import (
    check_hash,
    check_increasing,
    check_name,
    check_number,
    check_numbers,
    check_whole,
    shown,
)
from scene4d.edits.clocks import TimeMap, read_map
from scene4d.edits.codec import optional, read_kind, reads
from scene4d.edits.placements import Placement, read_placement
from scene4d.edits.selections import Selection, read_selection

if TYPE_CHECKING:
    from scene4d.paths import CameraPath


class Operation:
    """Base of the edits below; `kind` tells them apart in JSON."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Transform(Operation):
    """Moves, turns and scales; constant, or along keys over time."""

    kind: ClassVar[str] = "transform"
    select: Selection = field(metadata=reads(read_selection))
    placement: Placement = field(metadata=reads(read_placement))

    def __post_init__(self) -> None:
        _check(self)
        if not self.placement.keys:
            raise ValueError("placement of a transform must have at least one key, got none")


@dataclass(frozen=True)
class Remove(Operation):
    kind: ClassVar[str] = "remove"
    select: Selection = field(metadata=reads(read_selection))

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class Duplicate(Operation):
    """Copies what is selected; the copy is a new instance, placed."""

    kind: ClassVar[str] = "duplicate"
    select: Selection = field(metadata=reads(read_selection))
    instance: int
    placement: Placement = field(default=Placement(), metadata=reads(read_placement))

    def __post_init__(self) -> None:
        _check(self)
        check_whole("instance", self.instance, 1)


@dataclass(frozen=True)
class Insert(Operation):
    """Adds a scene, as a new instance, placed. Its clock is the scene's unless `clock` says otherwise."""

    kind: ClassVar[str] = "insert"
    asset: str  # sha256 of the asset's file
    name: str  # what it is called
    instance: int
    placement: Placement = field(default=Placement(), metadata=reads(read_placement))
    clock: TimeMap | None = field(default=None, metadata=reads(optional(read_map)))
    label: int | None = None  # None: those of the asset

    def __post_init__(self) -> None:
        _check(self)
        check_hash("asset", self.asset)
        check_name("name", self.name)
        check_whole("instance", self.instance, 1)
        if self.clock is not None and not isinstance(self.clock, TimeMap):
            raise ValueError(f"clock must be a time map, got {shown(self.clock)}")
        if self.label is not None:
            check_whole("label", self.label)


@dataclass(frozen=True)
class Retime(Operation):
    """Gives a clock: at t it is where it was at the clock's time. Earlier keyed edits of it are retimed with it."""

    kind: ClassVar[str] = "retime"
    select: Selection = field(metadata=reads(read_selection))
    clock: TimeMap = field(metadata=reads(read_map))

    def __post_init__(self) -> None:
        _check(self)
        if not isinstance(self.clock, TimeMap):
            raise ValueError(f"clock must be a time map, got {shown(self.clock)}")


@dataclass(frozen=True)
class Recolour(Operation):
    """Changes colours: gain, hue, saturation, offset, then a lookup table."""

    kind: ClassVar[str] = "recolour"
    select: Selection = field(metadata=reads(read_selection))
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    hue: float = 0.0  # degrees about the grey axis
    saturation: float = 1.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    lut: str | None = None  # sha256 of the .cube file
    lut_amount: float = 1.0

    def __post_init__(self) -> None:
        _check(self)
        check_numbers("gain", self.gain, 3, 0.0, 1e3)
        check_number("hue", self.hue, -3600.0, 3600.0)
        check_number("saturation", self.saturation, 0.0, 1e3)
        check_numbers("offset", self.offset, 3, -10.0, 10.0)
        check_number("lut_amount", self.lut_amount, 0.0, 1.0)
        if self.lut is not None:
            check_hash("lut", self.lut)


@dataclass(frozen=True)
class Fade(Operation):
    """Multiplies opacities by a number over time: straight lines between points, held outside."""

    kind: ClassVar[str] = "fade"
    select: Selection = field(metadata=reads(read_selection))
    times: tuple[float, ...]
    factors: tuple[float, ...]  # 0 to 1

    def __post_init__(self) -> None:
        _check(self)
        check_numbers("times", self.times)
        check_increasing("times", self.times)
        check_numbers("factors", self.factors, len(self.times), 0.0, 1.0)


@dataclass(frozen=True)
class Trim(Operation):
    """Shows it only from `start` to `end`; None leaves a side open."""

    kind: ClassVar[str] = "trim"
    select: Selection = field(metadata=reads(read_selection))
    start: float | None = None
    end: float | None = None

    def __post_init__(self) -> None:
        _check(self)
        for name in ("start", "end"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        if self.start is None and self.end is None:
            raise ValueError("start or end must be given, got neither")
        if self.start is not None and self.end is not None and not self.start < self.end:
            raise ValueError(f"start must be before end, got {self.start} and {self.end}")


@dataclass(frozen=True)
class Select(Operation):
    """Names a selection; what is copied from it later belongs to it too."""

    kind: ClassVar[str] = "select"
    name: str
    select: Selection = field(metadata=reads(read_selection))

    def __post_init__(self) -> None:
        _check(self)
        check_name("name", self.name)


@dataclass(frozen=True)
class StorePath(Operation):
    """Keeps a camera path beside the edits; `scene4d render --camera-path edits:NAME` renders along it."""

    kind: ClassVar[str] = "path"
    name: str
    path: str  # our own format of a camera path (docs/rendering.md) as JSON text: immutable

    def __post_init__(self) -> None:
        check_name("name", self.name)
        self.camera_path()

    def camera_path(self) -> CameraPath:
        """The path. Raises ValueError."""
        from scene4d.path_files import parse_path  # not at the top: it imports torch

        try:
            data = json.loads(self.path)
        except (TypeError, ValueError, RecursionError):
            raise ValueError(f"path must be the JSON text of a camera path, got {shown(self.path)}") from None
        if not isinstance(data, dict):
            raise ValueError(f"path must be the JSON text of a camera path, got {shown(self.path)}")
        return parse_path(data)


OPERATIONS: dict[str, type[Operation]] = {
    cls.kind: cls for cls in (Transform, Remove, Duplicate, Insert, Retime, Recolour, Fade, Trim, Select, StorePath)
}


def read_operation(data: Any, skip: tuple[str, ...] = ()) -> Operation:
    """The inverse of `codec.to_json`. Raises ValueError."""
    return read_kind(OPERATIONS, "an edit", data, 0, skip)


def _check(operation: Any) -> None:
    """The parts that most have."""
    if hasattr(operation, "select") and not isinstance(operation.select, Selection):
        raise ValueError(f"select must be a selection, got {shown(operation.select)}")
    if hasattr(operation, "placement") and not isinstance(operation.placement, Placement):
        raise ValueError(f"placement must be a placement, got {shown(operation.placement)}")
