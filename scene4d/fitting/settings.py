"""What a fit depends on, as data, and the presets. Presets count steps, never seconds, so that results repeat."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

DENSIFICATIONS = ("mcmc", "default", "none")


@dataclass(frozen=True)
class FitSettings:
    """Steps, sizes and weights of a fit. Raises ValueError for values out of range."""

    steps: int = 6000
    long_side: int | None = 480  # pixels of the longer side; None = as captured
    max_gaussians: int = 40_000
    first_gaussians: float = 0.6  # share of them at the start
    sh_degree: int = 1
    handles: int = 96
    slots: int = 4  # handles that a Gaussian follows, 1 to 4
    knot_frames: float = 3.0  # frames between two knots
    densification: str = "mcmc"
    exposure: bool = True  # a colour matrix per camera
    windows: bool = False  # Gaussians may come and go
    threads: int | None = None
    seed: int = 0
    # coarse to fine: shares of the steps at 1/4 and at 1/2 of the size
    quarter: float = 0.0
    half: float = 0.1
    march: float = 0.35  # share of the steps in which frames join one after the other
    # learning rates: of lengths in units of the scene's size, the others absolute
    lr_means: float = 2e-4
    lr_log_scales: float = 5e-3
    lr_quats: float = 2e-3
    lr_logit_opacities: float = 3e-2
    lr_sh: float = 5e-3
    lr_handle_logits: float = 1e-2
    lr_knots: float = 1.5e-3  # translations; rotations take it in radians; each time that a knot is seen
    lr_exposure: float = 1e-3
    lr_windows: float = 2e-3  # of the capture's duration
    lr_last: float = 0.05  # of lengths and knots, relative to the first
    # weights of the losses (reference: docs/fitting.md)
    weight_ssim: float = 0.2
    weight_mask: float = 0.5
    weight_depth: float = 0.5
    weight_tracks: float = 2.0  # at first; falls to 0 in the middle of the fit
    weight_rigidity: float = 0.1
    weight_smoothness: float = 0.05
    weight_opacity: float = 0.002
    weight_scale: float = 0.01
    weight_skinning: float = 0.001
    weight_windows: float = 0.001
    checkpoint_steps: int = 500
    preview_steps: int = 500

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 10_000_000),
            ("max_gaussians", 100, 100_000_000),
            ("handles", 0, 100_000),
            ("slots", 1, 4),
            ("sh_degree", 0, 3),
            ("checkpoint_steps", 1, 10_000_000),
            ("preview_steps", 0, 10_000_000),
            ("first_gaussians", 0.01, 1.0),
            ("quarter", 0.0, 1.0),
            ("half", 0.0, 1.0),
            ("march", 0.0, 1.0),
            ("knot_frames", 0.1, 1e6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be between {low:g} and {high:g}, got {getattr(self, name)}")
        for field in fields(self):
            if field.name.startswith(("lr_", "weight_")) and not 0 <= getattr(self, field.name) < 1e6:
                raise ValueError(f"{field.name} must not be negative, got {getattr(self, field.name)}")
        if self.long_side is not None and self.long_side < 16:
            raise ValueError(f"long_side must be at least 16, got {self.long_side}")
        if self.densification not in DENSIFICATIONS:
            raise ValueError(f"densification must be one of {', '.join(DENSIFICATIONS)}, got {self.densification!r}")
        if self.quarter + self.half > 1.0:
            raise ValueError(f"quarter and half must not exceed 1 together, got {self.quarter} and {self.half}")


PRESETS = {
    "draft": FitSettings(steps=800, long_side=320, max_gaussians=15_000, sh_degree=0, handles=48, knot_frames=6.0),
    "standard": FitSettings(),
    "high": FitSettings(steps=30_000, long_side=1080, max_gaussians=200_000, sh_degree=2, handles=256),
}


def with_changes(settings: FitSettings, **changes: Any) -> FitSettings:
    """`settings` with those of `changes` that are not None."""
    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
