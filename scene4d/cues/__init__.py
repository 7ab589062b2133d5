"""Cues: for every pixel of an edited scene's frame, what the source pictures have seen of it (docs/cues.md).

    prepared = prepare(sources)                                  pictures, cameras, depth, instances of the source
    cue = make_cue(prepared, frame)                              a `CueFrame`: roles, colours, confidence, provenance
    for cue in stream_cues(prepared, target, count): ...         along a path, on several threads

After "Preserve, Reveal, Expand: Faithful 4D Video Editing with Region-Aware Conditioning" (arXiv 2605.20961), of which
only the abstract was at hand: the equations are this project's own.
"""

from scene4d.cues.calibration import Calibration, load_calibration, save_calibration
from scene4d.cues.frames import CueFrame, CueOptions, make_cue, stream_cues
from scene4d.cues.roles import EXPAND, NAMES, PRESERVE, REVEAL, RoleOptions
from scene4d.cues.sources import Prepared, SourceViews, VisibilityOptions, prepare
from scene4d.cues.target import TargetFrame

__all__ = [
    "EXPAND",
    "NAMES",
    "PRESERVE",
    "REVEAL",
    "Calibration",
    "CueFrame",
    "CueOptions",
    "Prepared",
    "RoleOptions",
    "SourceViews",
    "TargetFrame",
    "VisibilityOptions",
    "load_calibration",
    "make_cue",
    "prepare",
    "save_calibration",
    "stream_cues",
]
