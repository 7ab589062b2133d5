"""`scene4d edit`: edits of a project's scene, from the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from scene4d.errors import InputError

Three = tuple[float, float, float]
Ease = Literal["linear", "smooth", "in", "out"]
sub = tyro.conf.subcommand


@dataclass(frozen=True)
class List:
    """Show the stack: number, on or off, what each edit is and what it changed."""


@dataclass(frozen=True)
class Undo:
    """Take back the last edit."""

    count: int = 1
    """How many."""


@dataclass(frozen=True)
class Redo:
    """Do again what was undone."""

    count: int = 1
    """How many."""


@dataclass(frozen=True)
class On:
    """Switch an edit on."""

    number: Annotated[int, tyro.conf.Positional]
    """Its number in `list`."""


@dataclass(frozen=True)
class Off:
    """Switch an edit off; it keeps its place."""

    number: Annotated[int, tyro.conf.Positional]
    """Its number in `list`."""


@dataclass(frozen=True)
class Clear:
    """Take back all edits; redo brings them back one by one."""


@dataclass(frozen=True)
class Move:
    """Move, turn and scale."""

    select: str
    """What, such as instance:2 or "moving & box:0,0,0,1,1,1@0.5"."""
    by: Three = (0.0, 0.0, 0.0)
    """Scene units along x, y and z."""
    turn: str | None = None
    """AXIS,DEGREES with AXIS x, y or z, or X,Y,Z,DEGREES."""
    scale: float = 1.0
    """Factor of its size."""
    pivot: str = "center"
    """What it turns and scales about: center (its own, wherever it is), or X,Y,Z."""


@dataclass(frozen=True)
class Animate:
    """Move, turn and scale along keys over time."""

    select: str
    """What."""
    key: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """SECONDS and any of by=X,Y,Z turn=AXIS,DEGREES scale=FACTOR, such as "0.5 by=0,0,1 turn=z,90". Once a key."""
    pivot: str = "center"
    """center, or X,Y,Z."""
    ease: Ease = "linear"
    """How it goes from key to key."""


@dataclass(frozen=True)
class Remove:
    """Take away."""

    select: str
    """What."""


@dataclass(frozen=True)
class Duplicate:
    """Copy, as a new instance."""

    select: str
    """What."""
    by: Three = (0.0, 0.0, 0.0)
    """Where the copy goes, from where the original is."""
    turn: str | None = None
    """AXIS,DEGREES."""
    scale: float = 1.0
    """Factor of the copy's size."""
    pivot: str = "center"
    """center, or X,Y,Z."""
    instance: int | None = None
    """Id of the copy. Default: the next that is free."""


@dataclass(frozen=True)
class Insert:
    """Add a project, a PLY of Gaussians or a mesh, as a new instance."""

    file: Annotated[Path, tyro.conf.Positional]
    """NAME.s4d, FILE.ply, or a mesh (.obj .glb .gltf .off .stl .ply), which needs trimesh or open3d."""
    by: Three = (0.0, 0.0, 0.0)
    """Where it goes."""
    turn: str | None = None
    """AXIS,DEGREES."""
    scale: float = 1.0
    """Factor of its size."""
    pivot: str = "0,0,0"
    """center, or X,Y,Z in its own coordinates."""
    instance: int | None = None
    """Its id. Default: the next that is free."""
    label: int | None = None
    """Its label. Default: its own."""
    start: float | None = None
    """Seconds of the scene at which its own time is 0."""
    spacing: float | None = None
    """Of a mesh: scene units between Gaussians. Default: 20,000 of them."""


@dataclass(frozen=True)
class Retime:
    """Give it a clock of its own. Exactly one of speed, reverse, freeze, loop, pingpong and points."""

    select: str
    """What."""
    speed: float | None = None
    """Factor; below 0 it runs backwards."""
    about: float = 0.0
    """Seconds at which a change of speed leaves it where it is."""
    reverse: str | None = None
    """FIRST:LAST, seconds between which it runs backwards."""
    freeze: float | None = None
    """Seconds at which it stands still."""
    loop: str | None = None
    """FIRST:LAST, seconds that repeat."""
    pingpong: str | None = None
    """FIRST:LAST, seconds that run there and back."""
    points: str | None = None
    """SCENE:OBJECT,SCENE:OBJECT,... a curve through these points, in seconds."""
    ease: Ease = "linear"
    """How it goes from point to point."""
    outside: Literal["extend", "hold", "loop", "pingpong"] = "hold"
    """Before the first and after the last of --points."""


@dataclass(frozen=True)
class Recolour:
    """Change colours: gain, hue, saturation, offset, then a lookup table."""

    select: str
    """What."""
    gain: Three = (1.0, 1.0, 1.0)
    """Factors of red, green and blue."""
    hue: float = 0.0
    """Degrees."""
    saturation: float = 1.0
    """0 is grey."""
    offset: Three = (0.0, 0.0, 0.0)
    """Added to red, green and blue."""
    lut: Path | None = None
    """A .cube file."""
    lut_amount: float = 1.0
    """From 0 (not at all) to 1."""


@dataclass(frozen=True)
class Fade:
    """Change opacity over time."""

    select: str
    """What."""
    points: str
    """SECONDS:FACTOR,SECONDS:FACTOR,... such as 0.2:1,0.5:0. One factor alone: at all times."""


@dataclass(frozen=True)
class Trim:
    """Show it within some seconds only."""

    select: str
    """What."""
    start: float | None = None
    """Seconds. Default: always."""
    end: float | None = None
    """Seconds. Default: for ever."""


@dataclass(frozen=True)
class Name:
    """Name a selection, so that later edits can say name:NAME."""

    name: Annotated[str, tyro.conf.Positional]
    """The name."""
    select: str
    """What."""


@dataclass(frozen=True)
class KeepPath:
    """Keep a camera path beside the edits, for `scene4d render --camera-path edits:NAME`."""

    name: Annotated[str, tyro.conf.Positional]
    """What to call it."""
    file: Annotated[Path, tyro.conf.Positional]
    """The path: ours or nerfstudio's JSON."""


@dataclass(frozen=True)
class Apply:
    """Push edits from a JSON file: one edit, or a list of them (docs/editing.md)."""

    file: Annotated[Path, tyro.conf.Positional]
    """The file."""


@dataclass(frozen=True)
class Bake:
    """Write a project whose plain scene shows what the edits made, without a stack."""

    out: Path
    """The project to write, NAME.s4d."""
    fps: float | None = None
    """Samples a second of motion that a plain scene cannot hold exactly. Default: 30."""


Operation = (
    Annotated[List, sub("list")]
    | Annotated[Move, sub("move")]
    | Annotated[Animate, sub("animate")]
    | Annotated[Remove, sub("remove")]
    | Annotated[Duplicate, sub("duplicate")]
    | Annotated[Insert, sub("insert")]
    | Annotated[Retime, sub("retime")]
    | Annotated[Recolour, sub("recolour")]
    | Annotated[Fade, sub("fade")]
    | Annotated[Trim, sub("trim")]
    | Annotated[Name, sub("name")]
    | Annotated[KeepPath, sub("path")]
    | Annotated[Apply, sub("apply")]
    | Annotated[Undo, sub("undo")]
    | Annotated[Redo, sub("redo")]
    | Annotated[On, sub("on")]
    | Annotated[Off, sub("off")]
    | Annotated[Clear, sub("clear")]
    | Annotated[Bake, sub("bake")]
)


@dataclass(frozen=True)
class Config:
    """Edit the scene of a project NAME.s4d (docs/editing.md).

    The fitted scene stays as it is: edits are a stack of operations beside it. Each is checked, says what it changes
    and is saved at once; `scene4d render` shows them. Selections: instance:2, label:3, moving, static, background, all,
    box:X,Y,Z,X,Y,Z@SECONDS, sphere:X,Y,Z,R@SECONDS, rect:CAMERA,X,Y,X,Y@SECONDS, mask:CAMERA,FILE@SECONDS, name:NAME,
    ... joined by + - & ! and brackets.
    """

    project: Annotated[Path, tyro.conf.Positional]
    """The project folder, NAME.s4d."""
    operation: tyro.conf.OmitSubcommandPrefixes[tyro.conf.OmitArgPrefixes[Operation]]
    """What to do."""


def main(config: Config) -> int:
    from scene4d.commands.edit_work import work  # not at the top: `scene4d edit --help` does without torch

    try:
        lines = work(config.project, config.operation)
    except InputError:
        raise
    except ValueError as e:
        raise InputError(str(e)) from e
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0
