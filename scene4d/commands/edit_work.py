"""What the subcommands of `scene4d edit` do: options become operations, and the stack is saved. Returns what to print.

Raises InputError, and ValueError for options.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scene4d.commands import edit as options
from scene4d.commands.edit_options import clock_of, fade_points, key_of, path_file, placement_of
from scene4d.edits import operations
from scene4d.edits.loading import load_edited
from scene4d.edits.operations import read_operation
from scene4d.edits.projects import (
    Opened,
    add_edit,
    bake_project,
    free_instance,
    insert_thing,
    open_edited,
    recolour_by_table,
    save_stack,
    stack_on_disk,
)
from scene4d.edits.selecting import time_range
from scene4d.edits.selection_text import Context, parse_selection
from scene4d.edits.selections import All, Selection
from scene4d.edits.stack import EditStack
from scene4d.edits.views import camera_view, mask_file, selection_file
from scene4d.errors import InputError
from scene4d.files.atomic import MAX_JSON_BYTES, read_bytes
from scene4d.files.project import load_project


def work(folder: Path, do: Any) -> list[str]:
    """Do what a subcommand says to the project in `folder`."""
    return _WORK[type(do)](folder, do)


def _selection(opened: Opened, text: str) -> Selection:
    project = opened.project
    return parse_selection(
        text,
        Context(
            time=project.canonical_time,
            view=lambda name, time: camera_view(project, name, time),
            mask=lambda name, view: mask_file(Path(name), view),
            file=lambda name: selection_file(Path(name)),
        ),
    )


def _pushed(folder: Path, make: Callable[[Opened], operations.Operation]) -> list[str]:
    opened = open_edited(folder)
    after = add_edit(opened, make(opened))
    return [after.report[-1]]


def _move(folder: Path, do: options.Move) -> list[str]:
    placement = placement_of(do)
    if not placement.keys:
        raise ValueError("move needs --by, --turn or --scale")
    return _pushed(folder, lambda o: operations.Transform(_selection(o, do.select), placement))


def _animate(folder: Path, do: options.Animate) -> list[str]:
    keys = tuple(sorted((key_of(text) for text in do.key), key=lambda key: key.time))
    placement = replace(placement_of(do), keys=keys, ease=do.ease)
    if not keys:
        raise ValueError("animate needs --key, once for each key")
    return _pushed(folder, lambda o: operations.Transform(_selection(o, do.select), placement))


def _remove(folder: Path, do: options.Remove) -> list[str]:
    return _pushed(folder, lambda o: operations.Remove(_selection(o, do.select)))


def _duplicate(folder: Path, do: options.Duplicate) -> list[str]:
    def make(opened: Opened) -> operations.Operation:
        number = free_instance(opened.edited) if do.instance is None else do.instance
        return operations.Duplicate(_selection(opened, do.select), number, placement_of(do))

    return _pushed(folder, make)


def _insert(folder: Path, do: options.Insert) -> list[str]:
    clock = None if do.start is None else clock_of(options.Retime("all", points=f"{do.start}:0,{do.start + 1}:1"))
    clock = clock and replace(clock, outside="extend")
    after = insert_thing(
        open_edited(folder),
        do.file,
        placement=placement_of(do),
        instance=do.instance,
        clock=clock,
        label=do.label,
        spacing=do.spacing,
    )
    return [after.report[-1]]


def _retime(folder: Path, do: options.Retime) -> list[str]:
    clock = clock_of(do)
    return _pushed(folder, lambda o: operations.Retime(_selection(o, do.select), clock))


def _recolour(folder: Path, do: options.Recolour) -> list[str]:
    plain = operations.Recolour(All(), do.gain, do.hue, do.saturation, do.offset)
    if do.lut is None:
        return _pushed(folder, lambda o: replace(plain, select=_selection(o, do.select)))
    if plain != operations.Recolour(All()):
        raise ValueError("--lut must stand alone; give the other changes as an edit before or after it")
    opened = open_edited(folder)
    return [recolour_by_table(opened, _selection(opened, do.select), do.lut, do.lut_amount).report[-1]]


def _fade(folder: Path, do: options.Fade) -> list[str]:
    times, factors = fade_points(do.points)
    return _pushed(folder, lambda o: operations.Fade(_selection(o, do.select), times, factors))


def _trim(folder: Path, do: options.Trim) -> list[str]:
    return _pushed(folder, lambda o: operations.Trim(_selection(o, do.select), do.start, do.end))


def _name(folder: Path, do: options.Name) -> list[str]:
    return _pushed(folder, lambda o: operations.Select(do.name, _selection(o, do.select)))


def _path(folder: Path, do: options.KeepPath) -> list[str]:
    text = path_file(do.file)
    return _pushed(folder, lambda o: operations.StorePath(do.name, text))


def _apply(folder: Path, do: options.Apply) -> list[str]:
    """All of a file's edits or none."""
    import json

    try:
        data = json.loads(read_bytes(do.file, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as e:
        raise InputError(f"{do.file}: is no JSON: {str(e)[:80]}") from e
    opened = open_edited(folder)
    edited = opened.edited
    for number, entry in enumerate(data if isinstance(data, list) else [data], start=1):
        try:
            edited = edited.then(read_operation(entry))
        except ValueError as e:
            raise InputError(f"{do.file}: entry {number}: {e}") from e
    save_stack(folder, edited.stack)
    return list(edited.report[len(opened.edited.report) :])


# -- the stack ---------------------------------------------------------------------------------------------------------


def _list(folder: Path, do: options.List) -> list[str]:
    project = load_project(folder)
    stack = stack_on_disk(folder)
    if not stack.done and not stack.undone:
        return [f"{folder}: no edits"]
    problem = None
    try:
        report = load_edited(project, folder).report
    except InputError as e:
        report, problem = ("",) * len(stack.done), str(e)
    lines = []
    for k, step in enumerate(stack.done):
        lines.append(f"{k + 1:3}  {'on ' if step.on else 'off'}  {step.operation.kind:<10} {report[k]}".rstrip())
    lines += [f"  -  undone  {step.operation.kind}" for step in reversed(stack.undone)]
    return lines + ([problem] if problem else [])


def _changed(folder: Path, change: Callable[[EditStack], EditStack], words: str) -> list[str]:
    """Save another stack. It must fit the scene, unless it is the present one that does not."""
    stack = stack_on_disk(folder)
    after = change(stack)
    project = load_project(folder)
    try:
        load_edited(replace(project, edits=tuple(after.to_json())), folder)
    except InputError as e:
        if len(after.active()) >= len(stack.active()):
            raise
        left = f"; what is left does not fit the scene yet: {e}"
        save_stack(folder, after)
        return [words + left]
    save_stack(folder, after)
    count = len(after.done)
    return [f"{words}; {count} edit{'s' * (count != 1)} in the stack"]


def _undo(folder: Path, do: options.Undo) -> list[str]:
    return _changed(folder, lambda stack: _times(stack, do.count, EditStack.undo), f"took back {do.count}")


def _redo(folder: Path, do: options.Redo) -> list[str]:
    return _changed(folder, lambda stack: _times(stack, do.count, EditStack.redo), f"did {do.count} again")


def _times(stack: EditStack, count: int, step: Callable[[EditStack], EditStack]) -> EditStack:
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    for _ in range(count):
        stack = step(stack)
    return stack


def _on(folder: Path, do: options.On) -> list[str]:
    return _changed(folder, lambda stack: stack.switched(do.number - 1, True), f"switched {do.number} on")


def _off(folder: Path, do: options.Off) -> list[str]:
    return _changed(folder, lambda stack: stack.switched(do.number - 1, False), f"switched {do.number} off")


def _clear(folder: Path, do: options.Clear) -> list[str]:
    def change(stack: EditStack) -> EditStack:
        while stack.done:
            stack = stack.undo()
        return stack

    return _changed(folder, change, "took back all")


def _bake(folder: Path, do: options.Bake) -> list[str]:
    opened = open_edited(folder)
    times = None
    if do.fps is not None:
        if not 0 < do.fps <= 1e4:
            raise ValueError(f"fps must be above 0 and at most 10000, got {do.fps}")
        first, last = time_range(opened.edited.state)
        count = max(round((last - first) * do.fps) + 1, 2)
        times = [first + (last - first) * k / (count - 1) for k in range(count)]
    scene, error = bake_project(opened, do.out, times)
    lines = [f"{do.out}: {len(scene):,} Gaussians, no edits"]
    if error.sampled:
        lines.append(
            f"{error.sampled:,} of them sampled; largest differences between samples: {error.position:.3g} "
            f"{opened.project.units}, opacity {error.opacity:.3g}, log of size {error.log_scale:.3g}, "
            f"colour {error.color:.3g}"
        )
    return lines


_WORK: dict[type, Callable[[Path, Any], list[str]]] = {
    options.List: _list,
    options.Move: _move,
    options.Animate: _animate,
    options.Remove: _remove,
    options.Duplicate: _duplicate,
    options.Insert: _insert,
    options.Retime: _retime,
    options.Recolour: _recolour,
    options.Fade: _fade,
    options.Trim: _trim,
    options.Name: _name,
    options.KeepPath: _path,
    options.Apply: _apply,
    options.Undo: _undo,
    options.Redo: _redo,
    options.On: _on,
    options.Off: _off,
    options.Clear: _clear,
    options.Bake: _bake,
}
