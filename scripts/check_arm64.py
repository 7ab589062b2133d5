"""Cross-compile the cpu backend for arm64, run it under qemu-user and compare it with the torch definition.

apt install g++-aarch64-linux-gnu qemu-user
python scripts/check_arm64.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from renderers import Cameras, Gaussians, build, rasterize

ROOT = Path(__file__).resolve().parents[1]
COMPILER, EMULATOR, SYSROOT = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
N, S, F, WIDTH, HEIGHT = 500, 16, 2, 90, 70
TOLERANCE = 1e-4  # relative L2: float32 rounding


def make_inputs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    means = rng.uniform([-2, -1.5, 2.5], [2, 1.5, 6], (N, 3))
    pose, K = np.eye(4), np.array([[90.0, 0, 45], [0, 90, 35], [0, 0, 1]])
    shape = rng.normal(-2.3, 0.5, (N, 3))
    random = [rng.standard_normal((N, 4)), shape, rng.standard_normal(N), 0.3 * rng.standard_normal((N, S, 3))]
    return [x.astype(np.float32) for x in (means, *random, pose, K, rng.standard_normal((N, F)))]


def expected(inputs: list[np.ndarray]) -> list[np.ndarray]:
    tensors = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in inputs]
    means, quats, log_scales, logits, sh, pose, K, features = tensors
    cameras = Cameras(pose[None], K[None], WIDTH, HEIGHT)
    out = rasterize(Gaussians(means, quats, log_scales, logits, sh), cameras, features=features, backend="torch")
    (out.image.sum() + out.depth.sum()).backward()
    maps = [out.image, out.depth, out.features]
    return [x.detach().numpy() for x in maps] + [x.grad.numpy() for x in (means, quats, log_scales, logits, sh, pose)]


def run_emulated(inputs: list[np.ndarray], folder: Path) -> np.ndarray:
    os.environ["CXX"] = COMPILER
    library = build.build(folder=folder, machine="aarch64")[0]
    driver = folder / "driver"
    command = [COMPILER, "-std=c++20", "-O2", str(ROOT / "scripts" / "arm64_driver.cpp"), str(library)]
    subprocess.run([*command, "-fopenmp", f"-Wl,-rpath,{folder}", "-o", str(driver)], check=True)
    head = np.array([N, S, F, WIDTH, HEIGHT], np.int64).tobytes()
    (folder / "in").write_bytes(head + b"".join(x.tobytes() for x in inputs))
    subprocess.run([EMULATOR, "-L", SYSROOT, str(driver), str(folder / "in"), str(folder / "out")], check=True)
    return np.fromfile(folder / "out", np.float32)


def main() -> int:
    missing = [tool for tool in (COMPILER, EMULATOR) if shutil.which(tool) is None]
    if missing:
        print(f"check_arm64: {', '.join(missing)} not found: apt install g++-aarch64-linux-gnu qemu-user")
        return 2
    inputs = make_inputs()
    truth = expected(inputs)
    with tempfile.TemporaryDirectory() as folder:
        found = run_emulated(inputs, Path(folder))
    names = ("image", "depth", "features", "v_means", "v_quats", "v_log_scales", "v_logit_opacities", "v_sh", "v_pose")
    worst, start = 0.0, 0
    for name, value in zip(names, truth, strict=True):
        part = found[start : start + value.size].reshape(value.shape)
        start += value.size
        error = float(np.linalg.norm(part - value) / np.linalg.norm(value))
        worst = max(worst, error)
        print(f"{name:<18} {error:.1e}")
    print("arm64 agrees with the definition" if worst < TOLERANCE else "arm64 DIFFERS from the definition")
    return 0 if worst < TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
