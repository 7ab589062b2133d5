"""The stack of edits of a scene: what was done, in order, and what was undone and can be done again. Plain JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scene4d.edits.checks import check_flag, shown
from scene4d.edits.codec import to_json
from scene4d.edits.operations import Operation, read_operation

MARKS = ("on", "undone")


@dataclass(frozen=True)
class Step:
    """An operation in the stack; one that is off does nothing and keeps its place."""

    operation: Operation
    on: bool = True


@dataclass(frozen=True)
class EditStack:
    """Operations, first applied first. Every method gives a new stack."""

    done: tuple[Step, ...] = ()
    undone: tuple[Step, ...] = ()  # the last is the next to be done again

    def push(self, operation: Operation) -> EditStack:
        """With one more operation; what was undone is forgotten."""
        if not isinstance(operation, Operation):
            raise ValueError(f"operation must be an Operation, got {shown(operation)}")
        return EditStack((*self.done, Step(operation)))

    def undo(self) -> EditStack:
        """Raises ValueError: nothing is left to undo."""
        if not self.done:
            raise ValueError("there must be an edit to undo, got none")
        return EditStack(self.done[:-1], (*self.undone, self.done[-1]))

    def redo(self) -> EditStack:
        """Raises ValueError: nothing was undone."""
        if not self.undone:
            raise ValueError("there must be an undone edit to redo, got none")
        return EditStack((*self.done, self.undone[-1]), self.undone[:-1])

    def switched(self, index: int, on: bool) -> EditStack:
        """With operation `index` of `done` on or off. Raises ValueError: there is no such one."""
        if not 0 <= index < len(self.done):
            raise ValueError(f"index must be below {len(self.done)}, the number of edits, got {index}")
        steps = list(self.done)
        steps[index] = replace(steps[index], on=on)
        return replace(self, done=tuple(steps))

    def active(self) -> tuple[tuple[int, Operation], ...]:
        """The operations that are on, with their places in `done`."""
        return tuple((k, step.operation) for k, step in enumerate(self.done) if step.on)

    def to_json(self) -> list[dict[str, Any]]:
        """As `Project.edits`: the operations in order, then those that were undone."""
        kept = [_entry(step) for step in self.done]
        return kept + [_entry(step) | {"undone": True} for step in self.undone]


def _entry(step: Step) -> dict[str, Any]:
    return to_json(step.operation) | ({} if step.on else {"on": False})


def stack_of(operations: Iterable[Operation]) -> EditStack:
    """A stack with these operations done."""
    return EditStack(tuple(Step(operation) for operation in operations))


def read_stack(entries: Sequence[dict[str, Any]]) -> EditStack:
    """The inverse of `EditStack.to_json`. Raises ValueError, which names the entry."""
    done, undone = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            operation = read_operation(entry, MARKS)
            on, gone = entry.get("on", True), entry.get("undone", False)
            check_flag("on", on)
            check_flag("undone", gone)
            if undone and not gone:
                raise ValueError("an edit that is done must not follow one that was undone")
        except ValueError as e:
            raise ValueError(f"edit {number}: {e}") from e
        (undone if gone else done).append(Step(operation, on))
    return EditStack(tuple(done), tuple(undone))
