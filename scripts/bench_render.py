"""Time the CPU backend against a vectorised torch per-tile rasterizer (backend "torch") in the same run.

    python scripts/bench_render.py [--quick] [--points NPZ] [--json FILE]

Forward and forward+backward of projection, activations and blending, with gradients for every Gaussian parameter. One
thread is measured in CPU time, more in wall time; each figure is the median of the repeats. `peak_extra_mb` is the
peak of the resident memory during forward+backward over what it was before.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import platform
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from renderers import Cameras, Gaussians, rasterize
from renderers.cpu_library import describe

POINTS = (10_000, 50_000, 200_000)
SIZES = ((320, 240), (640, 480))
CHANNELS = 4  # RGB and depth
THREADS = (1, 2)


def procedural_points(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A textured ground with a ring of boxes, seen by one camera; stands in for a capture."""
    ground = np.column_stack([rng.uniform(-4, 4, n), rng.uniform(-4, 4, n), 0.05 * rng.standard_normal(n)])
    angle = rng.uniform(0, 2 * np.pi, n)
    ring = np.column_stack([1.5 * np.cos(angle), 1.5 * np.sin(angle), rng.uniform(0, 1, n)])
    xyz = np.where(rng.random((n, 1)) < 0.6, ground, ring + 0.1 * rng.standard_normal((n, 3)))
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, math.sin(0.6), -math.cos(0.6)], [0, math.cos(0.6), math.sin(0.6)]]
    pose[2, 3] = 4.5
    K = np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])
    return {"means3d": xyz, "colors": rng.random((n, 3)), "viewmats": pose[None], "Ks": K[None], "size": (640, 480)}


def load_points(path: Path | None, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if path is None:
        return procedural_points(n, rng)
    data = dict(np.load(path, allow_pickle=False))
    count = len(data["means3d"])
    keep = rng.permutation(count)[:n]
    copies = rng.integers(count, size=max(n - count, 0))  # jittered copies beyond what the file holds
    spread = 0.3 * cKDTree(data["means3d"]).query(data["means3d"][copies], k=4)[0][:, 1:].mean(1, keepdims=True)
    extra = data["means3d"][copies] + spread * rng.standard_normal((len(copies), 3))
    return {
        "means3d": np.concatenate([data["means3d"][keep], extra]),
        "colors": np.concatenate([data["colors"][keep], data["colors"][copies]]),
        "viewmats": data["viewmats"][:1],
        "Ks": data["Ks"][:1],
        "size": (int(data["width"]), int(data["height"])),
    }


def make_scene(path: Path | None, n: int, sh_count: int) -> tuple[Gaussians, Callable[[int, int], Cameras]]:
    """The benchmark scene: scales from the distances of the three nearest neighbours, random rotations."""
    rng = np.random.default_rng(0)
    data = load_points(path, n, rng)
    colors = data["colors"] / (255.0 if data["colors"].max() > 1.5 else 1.0)
    distance = cKDTree(data["means3d"]).query(data["means3d"], k=4)[0][:, 1:]
    scales = np.sqrt((distance**2).mean(1, keepdims=True)) * rng.lognormal(-0.2, 0.5, (n, 3))
    opacities = rng.beta(1.2, 1.0, n).clip(1e-4, 1 - 1e-4)
    sh = 0.1 * rng.standard_normal((n, sh_count, 3))
    if sh_count:
        sh[:, 0] = (colors - 0.5) / 0.28209479

    def parameter(x: np.ndarray) -> Tensor:
        return torch.tensor(x, dtype=torch.float32).requires_grad_()

    gaussians = Gaussians(
        means=parameter(data["means3d"]),
        quats=parameter(rng.standard_normal((n, 4))),
        log_scales=parameter(np.log(scales.clip(1e-8))),
        logit_opacities=parameter(np.log(opacities / (1 - opacities))),
        sh=parameter(sh) if sh_count else None,
        colors=None if sh_count else parameter(colors),
    )

    def cameras(width: int, height: int) -> Cameras:
        K = np.array(data["Ks"], dtype=np.float64)
        K[:, 0] *= width / data["size"][0]
        K[:, 1] *= height / data["size"][1]
        pose = torch.tensor(data["viewmats"], dtype=torch.float32)
        return Cameras(pose, torch.tensor(K, dtype=torch.float32), width, height)

    return gaussians, cameras


def run(gaussians: Gaussians, cameras: Cameras, features: Tensor | None, backend: str, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        out = rasterize(gaussians, cameras, features=features, backend=backend)
    if not backward:
        return
    maps = [m for m in (out.image, out.alpha, out.depth, out.features) if m is not None]
    torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])
    for x in (*vars(gaussians).values(), features):
        if x is not None:
            x.grad = None


def time_ms(action: Callable[[], None], threads: int) -> float:
    torch.set_num_threads(threads)
    # CPU time of this thread alone: idle OpenMP workers spin for a while after a run with two
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    action()
    return 1e3 * (clock() - start)


def peak_extra_mb(action: Callable[[], None]) -> float | None:
    """Peak resident memory of `action` over the resident memory before it; None where Linux's counters are missing."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # memory that the allocator merely kept would hide what the action takes
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return None

    def resident(field: str) -> int:
        match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert match is not None
        return int(match.group(1))

    before = resident("VmRSS")
    action()
    return (resident("VmHWM") - before) / 1024


def measure(args: argparse.Namespace, n: int, size: tuple[int, int], extra: str = "") -> list[dict]:
    """One case with one and with two threads, taken in turns so that both see the same machine."""
    gaussians, cameras_of = make_scene(args.points, n, 16 if extra == "sh3" else 0)
    cameras = cameras_of(*size)
    features = torch.randn(n, 16, requires_grad=True) if extra == "features16" else None

    def action(backend: str, backward: bool) -> Callable[[], None]:
        return lambda: run(gaussians, cameras, features, backend, backward)

    with torch.no_grad():
        visible = int((rasterize(gaussians, cameras, backend="cpu").screen.radii[..., 0] > 0).sum())
    case = {"points": n, "visible": visible, "width": size[0], "height": size[1], "case": extra}
    case["channels"] = CHANNELS + (16 if extra == "features16" else 0)
    case["peak_extra_mb"] = peak_extra_mb(action("cpu", True))
    cases = [case | {"threads": threads} for threads in THREADS]
    names = {"forward_ms": False, "forward_backward_ms": True}
    times: dict[tuple[str, int], list[float]] = {(name, t): [] for name in names for t in THREADS}
    for repeat in range(1 + (5 if args.quick else args.repeats)):
        for (name, threads), taken in times.items():
            ms = time_ms(action("cpu", names[name]), threads)
            if repeat:  # the first warms up
                taken.append(ms)
    for case in cases:
        case |= {name: statistics.median(times[name, case["threads"]]) for name in names}
        if not args.no_reference and not extra:
            reference = time_ms(action("torch", True), case["threads"])
            case["reference_forward_backward_ms"] = reference
            case["speedup"] = reference / case["forward_backward_ms"]
    return cases


def row(case: dict) -> str:
    size, what = f"{case['width']}x{case['height']}", case["case"] or "rgb+depth"
    text = f"{case['points']:>7} {size} {case['threads']} thread {what:<10}"
    text += f" {case['forward_ms']:7.1f} / {case['forward_backward_ms']:7.1f} ms"
    text += f"  peak +{case['peak_extra_mb'] or 0:.0f} MB"
    return text + (f"  {case['speedup']:.0f}x torch" if "speedup" in case else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats, without 200k points")
    parser.add_argument("--points", type=Path, help="npz with means3d, colors, viewmats, Ks, width, height")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-reference", action="store_true", help="skip the torch rasterizer (minutes at 200k)")
    args = parser.parse_args()
    points = POINTS[:2] if args.quick else POINTS
    plan = [(n, size, "") for n in points for size in SIZES]
    plan += [(points[-1], SIZES[-1], extra) for extra in ("sh3", "features16")]
    cases = []
    for n, size, extra in plan:
        for case in measure(args, n, size, extra):
            cases.append(case)
            print(row(case), flush=True)
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    machine = {"cpu": model.group(1) if model else platform.processor(), "torch": torch.__version__, **describe()}
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "cases": cases}, indent=1))


if __name__ == "__main__":
    main()
