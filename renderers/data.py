"""The data that go into and come out of `renderers.rasterize`.

N Gaussians, C cameras, H W pixels, S SH coefficients, F feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

SH_COUNTS = (1, 4, 9, 16)  # degrees 0 to 3
DEFAULT_MAX_ALPHA = 0.999  # gsplat 1.5.3
ALPHA_THRESHOLD = 1.0 / 255.0  # a contribution below one 8-bit step is dropped (3DGS, gsplat)
TRANSMITTANCE_STOP = 1e-4  # the Gaussian that would push T to or below this is dropped, and all behind it


@dataclass(frozen=True)
class Gaussians:
    """3D Gaussians in raw parameters (before activation). Exactly one of `sh` and `colors` is given."""

    means: Tensor  # [N, 3] world, scene units
    quats: Tensor  # [N, 4] wxyz, any length; a zero quaternion is the identity rotation
    log_scales: Tensor  # [N, 3] log of the standard deviation along the local axes
    logit_opacities: Tensor  # [N]
    sh: Tensor | None = None  # [N, S, 3] S in {1, 4, 9, 16}; colour = max(SH(direction) + 0.5, 0)
    colors: Tensor | None = None  # [N, 3] RGB, used as they are

    def __len__(self) -> int:
        return self.means.shape[0]


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras of one image size (OpenCV axes, pixel centres at +0.5)."""

    world_to_cam: Tensor  # [C, 4, 4] rigid
    K: Tensor  # [C, 3, 3] pixels, no skew
    width: int
    height: int

    def __len__(self) -> int:
        return self.world_to_cam.shape[0]

    @property
    def centers(self) -> Tensor:
        """Camera centres in the world, [C, 3]."""
        R_cam_world = self.world_to_cam[:, :3, :3]
        return -(R_cam_world.mT @ self.world_to_cam[:, :3, 3:])[..., 0]


@dataclass(frozen=True)
class RasterOptions:
    """What a rasterization depends on besides the scene and the cameras."""

    near: float = 0.01  # Gaussians whose centre has depth < near or > far are not drawn; 1e-6 <= near < far <= 1e20
    far: float = 1e10
    eps2d: float = 0.3  # px^2, >= 1e-4, added to the screen covariance: low-passes splats thinner than a pixel (EWA)
    max_alpha: float | None = None  # cap of one contribution; None = 0.999, or what the installed gsplat was built with
    antialiased: bool = False  # scale opacity by sqrt(det(cov) / det(cov + eps2d)) (Mip-Splatting eq. 9)
    absgrad: bool = False  # after backward, screen.means2d.absgrad holds the sum of absolute pixel gradients (AbsGS)
    threads: int | None = None  # cpu backend, 1 to 1024; None = torch.get_num_threads(). Results do not depend on it


@dataclass(frozen=True)
class Screen:
    """What each camera saw of each Gaussian."""

    means2d: Tensor  # [C, N, 2] pixels; in the graph, keeps .grad after backward
    radii: Tensor  # [C, N, 2] int32 half-sizes of the box in which alpha can reach 1/255; 0 = not drawn
    weight_sum: Tensor | None  # [C, N] sum over pixels of the blending weights, if asked for; no gradient


@dataclass(frozen=True)
class Rendering:
    """One image per camera. Where nothing is drawn, alpha and depth are 0 and the image is the background.

    The last three are given when asked for and carry no gradient.
    """

    image: Tensor  # [C, H, W, 3]
    alpha: Tensor  # [C, H, W] in [0, 1)
    depth: Tensor  # [C, H, W] expected z: sum(w z) / sum(w)
    features: Tensor | None  # [C, H, W, F] sum(w f): not divided by alpha
    screen: Screen
    median_depth: Tensor | None = None  # [C, H, W] z of the Gaussian that takes T to 0.5 or below, 0 = none
    top_id: Tensor | None = None  # [C, H, W] int32 index of the Gaussian of largest weight, -1 = none
    top_weight: Tensor | None = None  # [C, H, W] its weight


WANTS = ("median_depth", "top", "weight_sum")
