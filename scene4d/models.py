"""Networks of the transformers library, from local folders: the one place that imports it. Nothing here downloads.

H W pixels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from scene4d.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT_SIDE = 518  # pixels, Depth Anything's (Yang et al. 2024); a folder's preprocessor_config.json goes before it


@dataclass(frozen=True, eq=False)
class DepthModel:
    """A network that gives depth or inverse depth of a single picture."""

    network: Any
    device: torch.device
    inverse: bool  # inverse depth up to scale and shift; else z in metres
    short_side: int  # pixels that pictures are brought to
    multiple: int  # of which both sides are
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _transformers() -> Any:
    try:
        return import_module("transformers")
    except ImportError as e:
        raise ImportError("depth networks need transformers: pip install 'scene4d[diffusion]'") from e
    except RuntimeError as e:
        if "torchvision" not in str(e):
            raise
        raise ImportError(
            "transformers cannot be imported because the installed torchvision was built for another torch; "
            "pip uninstall torchvision"
        ) from e


def load_depth_model(folder: Path, device: torch.device | str = "cpu") -> DepthModel:
    """A depth network (Depth Anything, DPT, ...) saved by transformers: config.json and model.safetensors.

    Raises:
        InputError: no such folder, files are missing or are not of a depth network.
        ImportError: transformers is not installed.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {name} is missing; a depth network's folder holds config.json and weights")
    transformers = _transformers()
    try:
        network = transformers.AutoModelForDepthEstimation.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: is no depth network: {str(error).splitlines()[0]}") from error
    config = network.config
    own = _preprocessing(folder)
    patch = getattr(config, "patch_size", None) or getattr(getattr(config, "backbone_config", None), "patch_size", None)
    metric = getattr(config, "depth_estimation_type", "relative") == "metric" or config.model_type == "zoedepth"
    return DepthModel(
        network.to(device).eval(),
        torch.device(device),
        inverse=not metric,
        short_side=own.get("short_side", SHORT_SIDE),
        multiple=int(patch or 32),
        mean=tuple(own.get("mean", IMAGENET_MEAN)),
        std=tuple(own.get("std", IMAGENET_STD)),
    )


def _preprocessing(folder: Path) -> dict[str, Any]:
    """What preprocessor_config.json says: the library's own reader of it needs torchvision."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        size, found = said.get("size"), {}
        if isinstance(size, dict):
            found["short_side"] = int(min(size[k] for k in ("height", "width", "shortest_edge") if k in size))
        elif isinstance(size, int):
            found["short_side"] = size
        for name, key in (("mean", "image_mean"), ("std", "image_std")):
            if key in said:
                found[name] = [float(x) for x in said[key]]
                if len(found[name]) != 3:
                    raise ValueError(f"{key} must have 3 entries")
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be understood: {error}") from error
    return found


def predict_depth(model: DepthModel, image: Tensor) -> Tensor:
    """float32 [H, W] of a picture uint8 [H, W, 3]: inverse depth up to scale and shift, or z in metres.

    The picture keeps its shape: its shorter side becomes `short_side`, both the nearest multiple of `multiple`.

    Raises:
        ValueError: image of another shape or type.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    factor = model.short_side / min(height, width)
    sides = [max(1, round(side * factor / model.multiple)) * model.multiple for side in (height, width)]
    pixels = image.to(model.device).float().div_(255.0)
    pixels = (pixels - pixels.new_tensor(model.mean)) / pixels.new_tensor(model.std)
    pixels = F.interpolate(pixels.movedim(-1, 0)[None], sides, mode="bicubic", antialias=True, align_corners=False)
    with torch.inference_mode():
        found = model.network(pixel_values=pixels).predicted_depth
    found = F.interpolate(found.reshape(1, 1, *found.shape[-2:]), (height, width), mode="bilinear", align_corners=False)
    return found[0, 0].float().cpu().clone()
