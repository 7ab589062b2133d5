"""Scenes for the renderer's tests: random ones, and the few steps that every test takes with them.

N Gaussians, C cameras, H W pixels, S SH coefficients, F channels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from renderers import Cameras, Gaussians, RasterOptions, Rendering, rasterize

BACKENDS = ("torch", "cpu")
DEFAULTS = RasterOptions()
MAPS = ("image", "alpha", "depth", "features")  # the differentiable ones
PARAMETERS = ("means", "quats", "log_scales", "logit_opacities", "sh", "colors")


@dataclass(frozen=True)
class Scene:
    """What `rasterize` takes, but for the options."""

    gaussians: Gaussians
    cameras: Cameras
    features: Tensor | None = None  # [N, F]
    background: Tensor | None = None  # [C, 3]

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that may take a gradient, by the name of its argument."""
        found = {name: getattr(self.gaussians, name) for name in PARAMETERS}
        found |= {"world_to_cam": self.cameras.world_to_cam, "features": self.features, "background": self.background}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def with_tensors(self, **changed: Tensor) -> Scene:
        """A copy in which the named tensors are others."""
        own = {name: changed.pop(name) for name in ("features", "background") if name in changed}
        pose = {"world_to_cam": changed.pop("world_to_cam")} if "world_to_cam" in changed else {}
        return replace(self, gaussians=replace(self.gaussians, **changed), cameras=replace(self.cameras, **pose), **own)

    def to(self, dtype: torch.dtype) -> Scene:
        converted = self.with_tensors(**{name: tensor.to(dtype) for name, tensor in self.tensors().items()})
        return replace(converted, cameras=replace(converted.cameras, K=self.cameras.K.to(dtype)))

    def with_leaves(self) -> Scene:
        """A copy whose tensors all take a gradient and hang on nothing."""
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in self.tensors().items()}
        return self.with_tensors(**leaves)

    def pick(self, index: Tensor) -> Scene:
        """The Gaussians `index`, in that order."""
        per_gaussian = {n: x[index] for n, x in self.tensors().items() if n not in ("world_to_cam", "background")}
        return self.with_tensors(**per_gaussian)


def pinhole(width: int, height: int, focal: float, poses: Tensor | None = None) -> Cameras:
    """Float64 cameras with the principal point in the middle; one at the origin if no poses [C, 4, 4] are given."""
    poses = torch.eye(4, dtype=torch.float64)[None] if poses is None else poses
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(poses, K.repeat(len(poses), 1, 1), width, height)


def small_motion(rng: np.random.Generator, angle: float = 0.1, shift: float = 0.1) -> Tensor:
    """A rigid transform [4, 4] near the identity."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(rng.uniform(-angle, angle, 3)).as_matrix()
    pose[:3, 3] = rng.uniform(-shift, shift, 3)
    return torch.from_numpy(pose)


def random_gaussians(
    rng: np.random.Generator, count: int, sh_degree: int | None = None, sizes: tuple[float, float] = (0.03, 0.3)
) -> Gaussians:
    """Float64 Gaussians in and around the view of a camera at the origin with a field of view of 53 degrees."""
    depth = rng.uniform(2, 5, count)
    slopes = rng.uniform(-0.6, 0.6, (count, 2))  # x/z, y/z; the image ends at 0.5
    S = 0 if sh_degree is None else (sh_degree + 1) ** 2
    arrays = {
        "means": np.column_stack([slopes * depth[:, None], depth]),
        "quats": rng.normal(size=(count, 4)),
        "log_scales": np.log(rng.uniform(*sizes, (count, 3))),
        "logit_opacities": rng.uniform(-1.5, 3, count),
        "colors" if sh_degree is None else "sh": rng.normal(size=(count, S, 3)) if S else rng.uniform(0, 1, (count, 3)),
    }
    return Gaussians(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def random_scene(
    seed: int, count: int = 30, size: tuple[int, int] = (24, 17), C: int = 1, F: int = 3, sh_degree: int | None = None
) -> Scene:
    """A float64 scene; the image is size[0] wide. The first camera is at the origin, others stand near it."""
    rng = np.random.default_rng(seed)
    poses = torch.stack([torch.eye(4, dtype=torch.float64), *(small_motion(rng) for _ in range(C - 1))])
    return Scene(
        random_gaussians(rng, count, sh_degree),
        pinhole(*size, float(max(size)), poses),
        torch.from_numpy(rng.normal(size=(count, F))),
        torch.from_numpy(rng.uniform(0, 1, (C, 3))),
    )


def render(scene: Scene, backend: str, options: RasterOptions = DEFAULTS, want: Collection[str] = ()) -> Rendering:
    return rasterize(
        scene.gaussians,
        scene.cameras,
        features=scene.features,
        background=scene.background,
        want=want,
        options=options,
        backend=backend,
    )


def loss(rendering: Rendering, seed: int = 0) -> Tensor:
    """A random linear function of all differentiable maps: its gradient reaches every input."""
    rng = np.random.default_rng(seed)
    terms = [(x * torch.from_numpy(rng.normal(size=x.shape)).to(x.dtype)).sum() for _, x in maps(rendering)]
    return torch.stack(terms).sum()


def maps(rendering: Rendering) -> list[tuple[str, Tensor]]:
    return [(name, x) for name in MAPS if (x := getattr(rendering, name)) is not None]


def gradients(scene: Scene, backend: str, options: RasterOptions = DEFAULTS) -> dict[str, Tensor]:
    """d loss / d each tensor of the scene and d means2d, by name."""
    scene = scene.with_leaves()
    rendering = render(scene, backend, options)
    loss(rendering).backward()
    return collect(scene, rendering)


def collect(scene: Scene, rendering: Rendering) -> dict[str, Tensor]:
    found = {name: tensor.grad for name, tensor in scene.tensors().items()}
    found["means2d"] = rendering.screen.means2d.grad
    found["absgrad"] = getattr(rendering.screen.means2d, "absgrad", None)
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def assert_near(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float, least: float = 1e-6) -> None:
    """Both hold the same names, and each tensor differs by no more than `tolerance` times its norm.

    `least` stands in for the norm of what is zero but for rounding.
    """
    assert got.keys() == expected.keys()
    for name, reference in expected.items():
        error = (got[name].double() - reference.double()).norm().item()
        assert error <= tolerance * max(reference.double().norm().item(), least), f"{name} is off by {error:.3g}"
