"""LPIPS with AlexNet, version 0.1 (Zhang et al. 2018, equation 1), from local weights, in plain torch.

The weights are an .npz with `conv0.weight` ... `conv4.bias` of torchvision's AlexNet and the linear heads `lin0` ...
`lin4`. P pictures, H W pixels.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scene4d.errors import InputError
from scene4d.metrics.images import check_images, masked_mean
from scene4d.weights import MissingWeightsError, find_weights

NAME, FILE = "lpips", "lpips_alex_v0.1.npz"
ADVICE = "copy the file there (the scores do without LPIPS)"
# out, in, kernel side, stride, padding, whether a 3x3 pooling of stride 2 comes before: torchvision's AlexNet
LAYERS = (
    (64, 3, 11, 4, 2, False),
    (192, 64, 5, 1, 2, True),
    (384, 192, 3, 1, 1, True),
    (256, 384, 3, 1, 1, False),
    (256, 256, 3, 1, 1, False),
)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS ScalingLayer, for images in [-1, 1]
MIN_SIDE = 31  # pixels; below, the second pooling has nothing left
NORM_EPSILON = 1e-10  # LPIPS normalize_tensor
MAX_BYTES = 1 << 25  # the real file has 10 MB


@dataclass(frozen=True)
class LpipsWeights:
    """Layer by layer."""

    kernels: tuple[Tensor, ...]  # [out, in, k, k]
    biases: tuple[Tensor, ...]  # [out]
    heads: tuple[Tensor, ...]  # [out], not negative

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> LpipsWeights:
        parts = (tuple(t.to(device, dtype) for t in group) for group in (self.kernels, self.biases, self.heads))
        return LpipsWeights(*parts)


def load_lpips(path: Path | None = None) -> LpipsWeights:
    """Weights from `path`, or from `lpips/lpips_alex_v0.1.npz` in the folders that weights are looked for in.

    Raises:
        MissingWeightsError: there is no such file.
        InputError: the file is not what it should be.
    """
    if path is None:
        path = find_weights(NAME, [FILE], ADVICE) / FILE
    elif not path.is_file():
        raise MissingWeightsError(NAME, [path.name], [path.parent], ADVICE)
    try:
        with zipfile.ZipFile(path) as archive:  # before anything is unpacked
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise InputError(f"{path}: unpacks to more than {MAX_BYTES} bytes")
        with np.load(path, allow_pickle=False) as arrays:
            return _checked({name: arrays[name] for name in arrays.files}, path)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{path}: is no readable .npz: {str(e)[:100]}") from e


def _checked(arrays: dict[str, np.ndarray], path: Path) -> LpipsWeights:
    def take(name: str, *shape: int) -> Tensor:
        found = arrays.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32 or not np.isfinite(found).all():
            got = "is missing" if found is None else f"is {found.dtype} {list(found.shape)}"
            raise InputError(f"{path}: {name} must be finite float32 {list(shape)}, {got}")
        return torch.from_numpy(found)

    kernels = [take(f"conv{i}.weight", out, inputs, k, k) for i, (out, inputs, k, *_) in enumerate(LAYERS)]
    biases = [take(f"conv{i}.bias", layer[0]) for i, layer in enumerate(LAYERS)]
    heads = [take(f"lin{i}", layer[0]) for i, layer in enumerate(LAYERS)]
    return LpipsWeights(tuple(kernels), tuple(biases), tuple(heads))


def lpips(
    image: Tensor,  # [..., H, W, 3] float in [0, 1]
    truth: Tensor,
    weights: LpipsWeights,
    mask: Tensor | None = None,  # [..., H, W] bool
) -> Tensor:
    """LPIPS, [...]; 0 = equal. Differentiable. Images should come a few at a time: 40 floats a pixel are held.

    With a mask, each layer's distances are brought to the size of the image (bilinear, as LPIPS does for its maps) and
    averaged in the mask; what lies outside it still reaches in through the receptive fields.

    Raises:
        ValueError: shapes do not fit, images are smaller than 31 pixels, or their type is not that of the weights.
    """
    check_images(image, truth, mask)
    height, width = image.shape[-3:-1]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"images must be at least {MIN_SIDE} pixels wide and high, got {width}x{height}")
    if image.dtype != weights.kernels[0].dtype:
        raise ValueError(f"image must be {weights.kernels[0].dtype} as the weights, got {image.dtype}")
    lead = image.shape[:-3]
    x, y = (_scaled(a).movedim(-1, -3).reshape(-1, 3, height, width) for a in (image, truth))
    flat_mask = None if mask is None else mask.reshape(-1, height, width)
    total = x.new_zeros(len(x))
    for i in range(len(LAYERS)):
        x, y = _next_features(x, weights, i), _next_features(y, weights, i)
        difference = (_unit(x) - _unit(y)).square()
        distance = torch.einsum("pchw,c->phw", difference, weights.heads[i])
        if mask is not None:
            distance = F.interpolate(distance[:, None], (height, width), mode="bilinear", align_corners=False)[:, 0]
        total = total + masked_mean(distance, flat_mask)
    return total.reshape(lead)


def _scaled(image: Tensor) -> Tensor:
    return (image * 2 - 1 - image.new_tensor(SHIFT)) / image.new_tensor(SCALE)


def _next_features(x: Tensor, weights: LpipsWeights, i: int) -> Tensor:
    *_, stride, padding, pooled = LAYERS[i]
    if pooled:
        x = F.max_pool2d(x, 3, 2)
    return F.relu(F.conv2d(x, weights.kernels[i], weights.biases[i], stride=stride, padding=padding))


def _unit(features: Tensor) -> Tensor:
    """Features of length 1 at each place."""
    # the square root has no gradient at 0: places where all features are 0 get the smallest number instead
    squared = features.square().sum(1, keepdim=True)
    length = torch.sqrt(squared.clamp_min(torch.finfo(features.dtype).tiny))
    return features / (length + NORM_EPSILON)
