"""Checkpoints: one safetensors file, in whose header stands the rest of the state as JSON, and a sha256 over both.

The state is any nest of dicts, lists, tuples, numbers, strings, None and tensors, such as an optimiser's
`state_dict()`. A tensor is stored under its path in the nest (`model/means`), so other tools can look into the file.
Nothing is pickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as tensors_bytes
from torch import Tensor

from scene4d.errors import InputError
from scene4d.files.atomic import make_folder, read_bytes, sync_folder, write_atomic

VERSION = 1
KEPT = 2
MAX_BYTES = 1 << 38
Generators = Mapping[str, torch.Generator | np.random.Generator]
# keys of the stand-ins for what JSON has no word for
TENSOR, ITEMS, TUPLE = "$tensor", "$items", "$tuple"


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from."""

    step: int  # steps that are done
    state: Any  # as it was saved, tensors on the CPU
    random: Any  # for `restore_random_state`
    path: Path


def save_checkpoint(folder: Path, step: int, state: Any, generators: Generators | None = None) -> Path:
    """Write a checkpoint and remove all but the last two. The state of random numbers goes with it.

    Raises:
        InputError: it cannot be written.
        TypeError: the state holds something else than a nest of plain values and tensors.
    """
    make_folder(folder)
    tensors: dict[str, Tensor] = {}
    nest = {"state": state, "random": random_state(generators)}
    body = json.dumps({"version": VERSION, "step": step, **_strip(nest, "", tensors)})
    header = {"checkpoint": body, "sha256": hash_tensors(tensors, body)}
    path = folder / f"step_{step:09d}.safetensors"
    write_atomic(path, tensors_bytes(tensors, header))
    files = _files(folder)
    place = files.index(path)
    # later steps are of a history that this run went back on
    for old in files[: max(0, place + 1 - KEPT)] + files[place + 1 :]:
        with contextlib.suppress(OSError):
            old.unlink()
    sync_folder(folder)
    return path


def load_latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The latest checkpoint that is whole, and what is wrong with those after it."""
    broken = []
    for path in reversed(_files(folder)):
        try:
            return load_checkpoint(path), broken
        except InputError as e:
            broken.append(str(e))
    return None, broken


def load_checkpoint(path: Path) -> Checkpoint:
    """Raises InputError: the file is missing, truncated, changed, or of a newer version."""
    data = read_bytes(path, MAX_BYTES)
    try:
        tensors = parse_tensors(data)
        # the parser has accepted the header: 8 bytes of its length, then JSON
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
        body, expected = header["checkpoint"], header["sha256"]
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path}: is no whole checkpoint: {str(e)[:100]}") from e
    if hash_tensors(tensors, body) != expected:
        raise InputError(f"{path}: its content does not have the sha256 that it was written with")
    content = json.loads(body)  # from here on it is what we wrote
    if content["version"] > VERSION:
        raise InputError(f"{path}: version {content['version']} is newer than {VERSION}; update scene4d")
    state, random = _fill(content["state"], tensors), _fill(content["random"], tensors)
    return Checkpoint(content["step"], state, random, path)


def hash_tensors(tensors: Mapping[str, Tensor], text: str = "") -> str:
    """sha256 of text, then of name, dtype, shape and bytes of each tensor in the order of the names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"|{name}|{tensor.dtype}|{list(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)  # no copy
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """Checkpoints in the order of their steps."""
    found = [(int(p.stem[5:]), p) for p in folder.glob("step_*.safetensors") if p.stem[5:].isdecimal()]
    return [path for _, path in sorted(found)]


def _strip(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON can hold it; its tensors go to `tensors`."""
    if isinstance(value, Tensor):
        while path in tensors:  # {"a/b": x, "a": {"b": y}}
            path += "'"
        # a copy: safetensors refuses tensors that share memory
        tensors[path] = value.detach().to("cpu", copy=True).contiguous()
        return {TENSOR: path}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _strip(v, f"{path}/{key}" if path else key, tensors) for key, v in value.items()}
        # an optimiser numbers its parameters; JSON would turn 0 into "0"
        return {ITEMS: [[_strip(k, f"{path}/{k}!", tensors), _strip(v, f"{path}/{k!r}", tensors)]
                        for k, v in value.items()]}  # fmt: skip
    if isinstance(value, list | tuple):
        parts = [_strip(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
        return parts if isinstance(value, list) else {TUPLE: parts}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint's {path} must be a plain value or a tensor, got {type(value).__name__}")


def _fill(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_strip`."""
    if isinstance(value, list):
        return [_fill(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if TENSOR in value:
        return tensors[value[TENSOR]]
    if TUPLE in value:
        return tuple(_fill(part, tensors) for part in value[TUPLE])
    if ITEMS in value:
        return {_fill(key, tensors): _fill(part, tensors) for key, part in value[ITEMS]}
    return {key: _fill(part, tensors) for key, part in value.items()}


# -- random numbers ----------------------------------------------------------------------------------------------------


def random_state(generators: Generators | None = None) -> dict[str, Any]:
    """The state of the generators of torch (CPU and each CUDA device), of numpy, and of those given by name.

    Python's own global generator is left out: rich draws from it when it shows a progress bar, so nothing that has to
    come out the same may.
    """
    legacy: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(legacy["state"]["key"].astype(np.int64))
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": {**legacy, "state": {**legacy["state"], "key": key}},
        "named": {},
    }
    for name, generator in (generators or {}).items():
        known = isinstance(generator, torch.Generator)
        state["named"][name] = generator.get_state() if known else _plain(generator.bit_generator.state)
    return state


def restore_random_state(state: Mapping[str, Any], generators: Generators | None = None) -> None:
    """Raises InputError: a named generator was not saved. CUDA devices that are not there any more are left out."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(saved, device)
    legacy = state["numpy"]
    key = legacy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**legacy, "state": {**legacy["state"], "key": key}})
    for name, generator in (generators or {}).items():
        if name not in state["named"]:
            raise InputError(f"the checkpoint has no state of the random numbers {name!r}")
        if isinstance(generator, torch.Generator):
            generator.set_state(state["named"][name])
        else:
            generator.bit_generator.state = state["named"][name]


def _plain(value: Any) -> Any:
    """numpy's state with arrays as lists, which its setters take too."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
