"""Fitting a scene to a capture: `scene4d.fitting.fit.fit_capture`. What it does and why: docs/fitting.md."""
