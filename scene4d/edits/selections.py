"""What an edit acts on, as expressions that are plain JSON. What they mean for a scene: `scene4d.edits.selecting`.

A selection is a set of Gaussians: chosen once, at the place of its edit in the stack, and from then on they are the
same Gaussians wherever they go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from scene4d.edits.checks import (
    MAX_ITEMS,
    check_choice,
    check_flag,
    check_name,
    check_number,
    check_numbers,
    check_whole,
    shown,
)
from scene4d.edits.codec import many, read_kind, read_object, reads

MAX_SIDE = 16384  # pixels
MAX_NEIGHBOURS = 64
Vec3 = tuple[float, float, float]


class Selection:
    """Base of the expressions below; `kind` tells them apart in JSON."""

    kind: ClassVar[str]


def read_selection(data: Any, depth: int = 0) -> Selection:
    """The inverse of `codec.to_json`. Raises ValueError."""
    return read_kind(SELECTIONS, "a selection", data, depth)


@dataclass(frozen=True)
class All(Selection):
    kind: ClassVar[str] = "all"


@dataclass(frozen=True)
class Instance(Selection):
    """All of these instances; each must be there."""

    kind: ClassVar[str] = "instance"
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_ids(self.ids)


@dataclass(frozen=True)
class Label(Selection):
    """All of these labels; each must be there."""

    kind: ClassVar[str] = "label"
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_ids(self.ids)


@dataclass(frozen=True)
class Moving(Selection):
    """What ever gets farther than `distance` from where it is at the first of the scene's times.

    `distance` None: 1 % of the scene's size (the diagonal of the box that holds the middle 98 %).
    """

    kind: ClassVar[str] = "moving"
    distance: float | None = None  # scene units

    def __post_init__(self) -> None:
        if self.distance is not None:
            check_number("distance", self.distance, 0.0)


@dataclass(frozen=True)
class Box(Selection):
    """What has its centre between two corners at a time."""

    kind: ClassVar[str] = "box"
    low: Vec3
    high: Vec3
    time: float = 0.0

    def __post_init__(self) -> None:
        check_numbers("low", self.low, 3)
        check_numbers("high", self.high, 3)
        check_number("time", self.time)
        if not all(a <= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low must not be above high, got {shown(self.low)} and {shown(self.high)}")


@dataclass(frozen=True)
class Sphere(Selection):
    """What has its centre within `radius` of a point at a time."""

    kind: ClassVar[str] = "sphere"
    center: Vec3
    radius: float
    time: float = 0.0

    def __post_init__(self) -> None:
        check_numbers("center", self.center, 3)
        check_number("radius", self.radius, 0.0)
        check_number("time", self.time)


@dataclass(frozen=True)
class Rows(Selection):
    """Rows of the scene as it is at this place of the stack: runs of (first, count), ascending."""

    kind: ClassVar[str] = "rows"
    runs: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        end = 0
        if not isinstance(self.runs, tuple) or len(self.runs) > MAX_ITEMS:
            raise ValueError(f"runs must be a list of pairs, got {shown(self.runs)}")
        for run in self.runs:
            if not isinstance(run, tuple) or len(run) != 2:
                raise ValueError(f"runs must be pairs of first row and count, got {shown(run)}")
            check_whole("first row of a run", run[0], end)
            check_whole("count of a run", run[1], 1)
            end = run[0] + run[1]


# -- views -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """A camera at a time. Row by row: world_to_cam [4, 4], K [3, 3] in pixels."""

    world_to_cam: tuple[float, ...]
    K: tuple[float, ...]
    width: int
    height: int
    time: float = 0.0

    def __post_init__(self) -> None:
        check_numbers("world_to_cam", self.world_to_cam, 16)
        check_numbers("K", self.K, 9)
        check_whole("width", self.width, 1, MAX_SIDE)
        check_whole("height", self.height, 1, MAX_SIDE)
        check_number("time", self.time)
        _check_camera(self.world_to_cam, self.K)


def _check_camera(pose: tuple[float, ...], K: tuple[float, ...]) -> None:
    rows = [pose[0:3], pose[4:7], pose[8:11]]
    dots = [sum(a * b for a, b in zip(rows[i], rows[j], strict=True)) - (i == j) for i in range(3) for j in range(3)]
    if max(abs(x) for x in dots) > 1e-3 or any(abs(a - b) > 1e-9 for a, b in zip(pose[12:], (0, 0, 0, 1), strict=True)):
        raise ValueError(f"world_to_cam must be rigid, got {shown(pose)}")
    if not (K[0] > 0 and K[4] > 0 and K[8] == 1 and K[1] == K[3] == K[6] == K[7] == 0):
        raise ValueError(f"K must be a pinhole matrix without skew, got {shown(K)}")


def _read_view(data: Any, depth: int) -> View:
    return read_object(View, data, depth)


@dataclass(frozen=True)
class Screen(Selection):
    """What is seen inside a shape drawn in a view: a rectangle (two corners), a lasso (its outline) or a brush stroke.

    Only what is visible there: more than half of what the view shows of it lies inside. `through`: all that has its
    centre inside, hidden or not.
    """

    kind: ClassVar[str] = "screen"
    view: View = field(metadata=reads(_read_view))
    shape: str
    points: tuple[tuple[float, float], ...]  # pixels
    radius: float = 0.0  # pixels, of the brush
    through: bool = False

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, ("rectangle", "lasso", "brush"))
        least = {"rectangle": 2, "lasso": 3, "brush": 1}[self.shape]
        if not isinstance(self.points, tuple) or not least <= len(self.points) <= 100_000:
            raise ValueError(f"points of a {self.shape} must be a list of at least {least}, got {shown(self.points)}")
        if self.shape == "rectangle" and len(self.points) != 2:
            raise ValueError(f"points of a rectangle must be two corners, got {len(self.points)}")
        for point in self.points:
            check_numbers("points", point, 2, -1e5, 1e5)
        check_number("radius", self.radius, 0.5 if self.shape == "brush" else 0.0, MAX_SIDE)
        check_flag("through", self.through)


@dataclass(frozen=True)
class Mask:
    """A 2D mask in a view, row by row as lengths of runs: the first that are off, then on, off, ..."""

    view: View = field(metadata=reads(_read_view))
    runs: tuple[int, ...]

    def __post_init__(self) -> None:
        size = self.view.width * self.view.height
        if not isinstance(self.runs, tuple) or not self.runs or len(self.runs) > size + 1:
            raise ValueError(f"runs of a mask must be a list of lengths, got {shown(self.runs)}")
        for run in self.runs:
            check_whole("length of a run", run, 0, size)
        if sum(self.runs) != size:
            rule = f"{self.view.width} x {self.view.height} pixels"
            raise ValueError(f"runs of a mask must add up to {rule}, got {sum(self.runs)}")


def _read_mask(data: Any, depth: int) -> Mask:
    return read_object(Mask, data, depth)


@dataclass(frozen=True)
class Masks(Selection):
    """What lies in masks of one or several views: more than `share` of what the views show of it.

    Below a half, for Gaussians at a thing's edge reach out of its mask, and those behind it do not reach in.
    """

    kind: ClassVar[str] = "masks"
    masks: tuple[Mask, ...] = field(metadata=reads(many(_read_mask)))
    share: float = 0.3

    def __post_init__(self) -> None:
        if not isinstance(self.masks, tuple) or not self.masks:
            raise ValueError("masks must be at least one, got none")
        check_number("share", self.share, 0.0, 1.0)


# -- made of others ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Flood(Selection):
    """Grows from `seed` to neighbours that have about the same colour and move along, again and again.

    Neighbours are the nearest `neighbours` centres at `time`. The colour may differ by `color` from a neighbour's, and
    the distance between the two may change by `motion` over the scene's times.
    """

    kind: ClassVar[str] = "flood"
    seed: Selection = field(metadata=reads(read_selection))
    time: float = 0.0
    color: float = 0.1  # largest difference of a channel, 0 to 1
    motion: float | None = None  # scene units; None: 1 % of the scene's size
    distance: float | None = None  # scene units that a neighbour may be away; None: 3 times the median spacing
    neighbours: int = 8

    def __post_init__(self) -> None:
        _check_of("seed", self.seed)
        check_number("time", self.time)
        check_number("color", self.color, 0.0)
        for name in ("motion", "distance"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0)
        check_whole("neighbours", self.neighbours, 1, MAX_NEIGHBOURS)


@dataclass(frozen=True)
class Grow(Selection):
    """And what is within `distance` of it at a time."""

    kind: ClassVar[str] = "grow"
    of: Selection = field(metadata=reads(read_selection))
    distance: float
    time: float = 0.0

    def __post_init__(self) -> None:
        _check_of("of", self.of)
        check_number("distance", self.distance, 0.0)
        check_number("time", self.time)


@dataclass(frozen=True)
class Shrink(Selection):
    """Without what is within `distance` of anything that is not selected, at a time."""

    kind: ClassVar[str] = "shrink"
    of: Selection = field(metadata=reads(read_selection))
    distance: float
    time: float = 0.0

    def __post_init__(self) -> None:
        _check_of("of", self.of)
        check_number("distance", self.distance, 0.0)
        check_number("time", self.time)


@dataclass(frozen=True)
class Union(Selection):
    kind: ClassVar[str] = "union"
    of: tuple[Selection, ...] = field(metadata=reads(many(read_selection)))

    def __post_init__(self) -> None:
        _check_of("of", self.of)


@dataclass(frozen=True)
class Intersect(Selection):
    kind: ClassVar[str] = "intersect"
    of: tuple[Selection, ...] = field(metadata=reads(many(read_selection)))

    def __post_init__(self) -> None:
        _check_of("of", self.of)


@dataclass(frozen=True)
class Subtract(Selection):
    """The first without the others."""

    kind: ClassVar[str] = "subtract"
    of: tuple[Selection, ...] = field(metadata=reads(many(read_selection)))

    def __post_init__(self) -> None:
        _check_of("of", self.of)


@dataclass(frozen=True)
class Invert(Selection):
    kind: ClassVar[str] = "invert"
    of: Selection = field(metadata=reads(read_selection))

    def __post_init__(self) -> None:
        _check_of("of", self.of)


@dataclass(frozen=True)
class Named(Selection):
    """What an earlier `select` of the stack named."""

    kind: ClassVar[str] = "named"
    name: str

    def __post_init__(self) -> None:
        check_name("name", self.name)


SELECTIONS: dict[str, type[Selection]] = {
    cls.kind: cls
    for cls in (
        All, Instance, Label, Moving, Box, Sphere, Rows, Screen, Masks,
        Flood, Grow, Shrink, Union, Intersect, Subtract, Invert, Named,
    )
}  # fmt: skip


def _check_ids(ids: Any) -> None:
    if not isinstance(ids, tuple) or not ids or len(ids) > 1 << 16:
        raise ValueError(f"ids must be a list of whole numbers, got {shown(ids)}")
    for value in ids:
        check_whole("ids", value)


def _check_of(name: str, value: Any) -> None:
    items = value if isinstance(value, tuple) else (value,)
    if not items or not all(isinstance(item, Selection) for item in items):
        raise ValueError(f"{name} must be a selection, or a list of at least one, got {shown(value)}")
