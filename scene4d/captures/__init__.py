"""Captures: posed videos and frames on disk, read lazily and bounded, one reader a format.

`open_capture(path)` finds the format by looking and returns a `Capture` of `View`s in the conventions of `renderers`:
axes are converted and lens distortion is undone on the way in. Formats and how each is read: docs/captures_formats.md.
"""

from scene4d.captures.capture import Capture, Observations, Points, View
from scene4d.captures.checks import CaptureWarning
from scene4d.captures.opening import FORMATS, open_capture

__all__ = ["FORMATS", "Capture", "CaptureWarning", "Observations", "Points", "View", "open_capture"]
