"""Edits of scenes as data: selections, operations, their stack, and the scene that they make (docs/editing.md).

edited = load_edited(project, folder)                          EditedScene: at(t), labels, instances, provenance(t)
after = edited.then(Remove(Instance((2,))))                    one more edit; `edited` stays as it is
before = after.with_stack(after.stack.undo())
update_project(folder, edits=tuple(after.stack.to_json()))
"""

from scene4d.edits.clocks import TimeMap
from scene4d.edits.loading import load_edited
from scene4d.edits.operations import (
    Duplicate,
    Fade,
    Insert,
    Operation,
    Recolour,
    Remove,
    Retime,
    Select,
    StorePath,
    Transform,
    Trim,
)
from scene4d.edits.placements import Key, Placement, placement_of_matrix
from scene4d.edits.scene import EditedScene, Provenance
from scene4d.edits.selections import Selection
from scene4d.edits.stack import EditStack, Step, read_stack, stack_of

__all__ = [
    "Duplicate",
    "EditStack",
    "EditedScene",
    "Fade",
    "Insert",
    "Key",
    "Operation",
    "Placement",
    "Provenance",
    "Recolour",
    "Remove",
    "Retime",
    "Select",
    "Selection",
    "Step",
    "StorePath",
    "TimeMap",
    "Transform",
    "Trim",
    "load_edited",
    "placement_of_matrix",
    "read_stack",
    "stack_of",
]
