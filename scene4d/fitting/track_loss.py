"""Tracks in the picture: where the scene says that pixels go, against where optical flow says so.

As Shape of Motion (Wang et al. 2024, section 3.3) with flow between neighbouring training frames for tracks. Rendered
are the positions of the Gaussians at the other time, seen from the pixel now; weights fall to 0, because flow is less
exact than pictures. N Gaussians, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers import RasterOptions, rasterize
from scene4d import motion
from scene4d.captures import View
from scene4d.fitting.flows import PairFlow, guessed_flow, pair_flow, pixel_grid
from scene4d.fitting.footage import Footage, Shot
from scene4d.scene import Scene4D

EVERY = 4  # steps
MOST_BYTES = 512 << 20  # of flows that are kept
OUTLIER = 4.0  # pixels: what is further off pulls no more, flow or scene is on the wrong thing
SOLID = 0.5  # alpha
NO_POINTS = (torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int32))


class TrackLoss:
    """Flow between neighbouring training frames of each camera, found when first asked for."""

    def __init__(self, footage: Footage) -> None:
        self.footage = footage
        self._flows: dict[tuple, PairFlow] = {}
        self._bytes = 0

    def neighbour(self, view: View, chance: torch.Generator) -> View | None:
        """The training view of the same camera before or after; None where there is no other."""
        views = self.footage.of_camera(view.camera)
        k = next(i for i, v in enumerate(views) if v.frame == view.frame)
        sides = [views[i] for i in (k - 1, k + 1) if 0 <= i < len(views)]
        return sides[int(torch.randint(0, len(sides), (), generator=chance))] if sides else None

    def __call__(
        self, scene: Scene4D, shot: Shot, views: tuple[View, View], shrink: int, options: RasterOptions
    ) -> Tensor:
        """Mean distance in the picture, relative to its longer side, over pixels of what moves; 0 if none is known."""
        a, b = views
        flow = self._flow(a, b, shrink)
        known = flow.good.to(shot.image.device)
        if shot.instances is not None:
            known = known & (shot.instances > 0)
        other = self.footage.shot(b, shrink).camera
        there = rasterize(scene.at(a.time), shot.camera, features=motion.positions(scene, b.time), options=options)
        alpha = there.alpha[0]
        known = known & (alpha.detach() > SOLID)
        assert there.features is not None
        if not bool(known.any()):
            return there.features.sum() * 0
        xyz = (there.features[0] / alpha.clamp_min(1e-6)[..., None])[known]
        local = xyz @ other.world_to_cam[0, :3, :3].T + other.world_to_cam[0, :3, 3]
        uv = (local @ other.K[0].T)[:, :2] / local[:, 2:].clamp_min(1e-6)
        target = (pixel_grid(*alpha.shape) + flow.flow).to(uv)[known]
        error = (uv - target).abs().sum(1)
        return error.clamp_max(OUTLIER).mean() / max(alpha.shape)

    def _flow(self, a: View, b: View, shrink: int) -> PairFlow:
        key = (*a.key, b.frame, shrink)
        if key not in self._flows:
            shots = [self.footage.shot(v, shrink) for v in (a, b)]
            ids = [None if shot.instances is None else shot.instances.cpu() for shot in shots]
            there = back = None
            if ids[0] is not None and ids[1] is not None:
                there, back = guessed_flow(ids[0], ids[1], *NO_POINTS), guessed_flow(ids[1], ids[0], *NO_POINTS)
            pictures = [(shot.image.cpu() * 255).round().byte() for shot in shots]
            found = pair_flow(pictures[0], pictures[1], there, back)
            if self._bytes > MOST_BYTES:
                return found
            self._flows[key] = found
            self._bytes += found.flow.numel() * 4 + found.good.numel()
        return self._flows[key]
