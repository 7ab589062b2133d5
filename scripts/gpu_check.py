"""Everything that only a GPU can show: gsplat against the definition, our overhead over bare gsplat, frames per second.

    python scripts/gpu_check.py [--json FILE]

Runs from a bare checkout: needs torch >= 2.10, numpy and gsplat, nothing else. Prints a table, writes JSON, exits with
1 if a parity row fails. `--backend cpu` runs the same checks of the C++ backend on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from renderers import Cameras, Gaussians, RasterOptions, Rendering, rasterize  # noqa: E402  (needs the line above)

VALUE_TOLERANCE = 1e-3  # relative L2: float32 with the GPU's fast exp against float64
GRADIENT_TOLERANCE = 1e-2
PIXEL_TOLERANCE = 1e-3  # a pixel is off when it differs by more than this ...
PIXEL_FRACTION = 1e-3  # ... and at most this share of pixels may be: thresholds fall on the other side


@dataclass(frozen=True)
class Mode:
    name: str
    sh_count: int = 0
    features: int = 0
    background: bool = False
    options: RasterOptions = RasterOptions()


MODES = (
    Mode("classic"),
    Mode("background", background=True),
    Mode("antialiased", options=RasterOptions(antialiased=True)),
    Mode("sh0", sh_count=1),
    Mode("sh3", sh_count=16),
    Mode("features16", features=16, background=True),
    Mode("sh3+features40", sh_count=16, features=40),
    Mode("absgrad", options=RasterOptions(absgrad=True)),
    Mode("eps2d 0.1", options=RasterOptions(eps2d=0.1)),
)


def make_scene(n: int, mode: Mode, dtype: torch.dtype, device: str) -> tuple[Gaussians, Tensor | None, Tensor | None]:
    """A cloud of n Gaussians in front of `make_cameras`; the same numbers for every dtype and device."""
    rng = np.random.default_rng(0)

    def parameter(x: np.ndarray) -> Tensor:
        return torch.tensor(x, dtype=dtype, device=device).requires_grad_()

    means = rng.uniform([-2, -1.5, 2], [2, 1.5, 7], (n, 3))
    size = np.log(2.5 / n ** (1 / 3) * 0.25)
    gaussians = Gaussians(
        means=parameter(means),
        quats=parameter(rng.standard_normal((n, 4))),
        log_scales=parameter(size + 0.4 * rng.standard_normal((n, 3))),
        logit_opacities=parameter(rng.standard_normal(n)),
        sh=parameter(0.3 * rng.standard_normal((n, mode.sh_count, 3))) if mode.sh_count else None,
        colors=None if mode.sh_count else parameter(rng.random((n, 3))),
    )
    features = parameter(rng.standard_normal((n, mode.features))) if mode.features else None
    background = parameter(np.array([0.2, 0.5, 0.8])) if mode.background else None
    return gaussians, features, background


def make_cameras(count: int, width: int, height: int, dtype: torch.dtype, device: str) -> Cameras:
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    angle = torch.linspace(-0.1, 0.1, count, dtype=torch.float64) if count > 1 else torch.zeros(1, dtype=torch.float64)
    poses[:, 0, 0], poses[:, 0, 2], poses[:, 2, 0], poses[:, 2, 2] = angle.cos(), angle.sin(), -angle.sin(), angle.cos()
    K = torch.tensor([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]], dtype=torch.float64)
    poses = poses.to(device, dtype).requires_grad_()
    return Cameras(poses, K.to(device, dtype).repeat(count, 1, 1), width, height)


def tangent(pose: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of a pose along rigid motions only: off them the backends differ by what they call the camera centre."""
    R = pose[:, :3, :3].detach().double().cpu()
    moment = R.mT @ gradient[:, :3, :3].double().cpu()
    return torch.cat([(moment - moment.mT).flatten(1), gradient[:, :3, 3].double().cpu()], 1)


def run(mode: Mode, backend: str, dtype: torch.dtype, device: str, n: int) -> tuple[Rendering, dict[str, Tensor]]:
    gaussians, features, background = make_scene(n, mode, dtype, device)
    cameras = make_cameras(2, 160, 120, dtype, device)
    out = rasterize(
        gaussians,
        cameras,
        features=features,
        background=background,
        want=("median_depth", "top", "weight_sum"),
        options=mode.options,
        backend=backend,
    )
    rng = np.random.default_rng(1)
    maps = [m for m in (out.image, out.alpha, out.depth, out.features) if m is not None]
    torch.autograd.backward(maps, [torch.tensor(rng.standard_normal(m.shape)).to(m) for m in maps])
    leaves = {f.name: getattr(gaussians, f.name) for f in fields(gaussians)}
    leaves |= {"features": features, "background": background}
    gradients = {k: x.grad for k, x in leaves.items() if x is not None and x.grad is not None}
    pose_gradient = cameras.world_to_cam.grad
    assert pose_gradient is not None and out.screen.means2d.grad is not None
    gradients["world_to_cam"] = tangent(cameras.world_to_cam, pose_gradient)
    gradients["means2d"] = out.screen.means2d.grad
    if mode.options.absgrad:
        gradients["absgrad"] = out.screen.means2d.absgrad  # type: ignore[attr-defined]
    return out, gradients


def relative(x: Tensor, truth: Tensor) -> float:
    truth = truth.detach().double().cpu()
    return float((x.detach().double().cpu() - truth).norm() / truth.norm().clamp_min(1e-30))


def parity(mode: Mode, args: argparse.Namespace, max_alpha: float | None) -> dict:
    truth_mode = replace(mode, options=replace(mode.options, max_alpha=max_alpha))
    truth, truth_gradients = run(truth_mode, "torch", torch.float64, args.device, args.parity_points)
    out, gradients = run(mode, args.backend, torch.float32, args.device, args.parity_points)
    values = {k: relative(getattr(out, k), getattr(truth, k)) for k in ("image", "alpha", "depth")}
    if mode.features:
        values["features"] = relative(out.features, truth.features)
    values["weight_sum"] = relative(out.screen.weight_sum, truth.screen.weight_sum)
    off = ((out.image.double().cpu() - truth.image.cpu()).abs().amax(-1) > PIXEL_TOLERANCE).double().mean()
    same_top = (out.top_id.cpu() == truth.top_id.cpu()).double().mean()
    median_off = ((out.median_depth.double().cpu() - truth.median_depth.cpu()).abs() > PIXEL_TOLERANCE).double().mean()
    errors = {k: relative(g, truth_gradients[k]) for k, g in gradients.items()}
    passed = max(values.values()) < VALUE_TOLERANCE and max(errors.values()) < GRADIENT_TOLERANCE
    passed = passed and float(off) < PIXEL_FRACTION and float(same_top) > 0.99 and float(median_off) < 0.01
    row = {"mode": mode.name, "values": values, "gradients": errors, "pixels_off": float(off)}
    return row | {"top_id_equal": float(same_top), "median_depth_off": float(median_off), "passed": passed}


def median_ms(action: Callable[[], None], device: str, repeats: int) -> float:
    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        action()
    times = []
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        action()
        wait()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def bare_gsplat(gaussians: Gaussians, cameras: Cameras, backward: bool) -> None:
    import gsplat

    with torch.set_grad_enabled(backward):
        maps, alphas, _ = gsplat.rasterization(
            gaussians.means,
            gaussians.quats,
            torch.exp(gaussians.log_scales),
            torch.sigmoid(gaussians.logit_opacities),
            gaussians.colors,
            cameras.world_to_cam,
            cameras.K,
            cameras.width,
            cameras.height,
            packed=False,
            render_mode="RGB+ED",
        )
    if backward:
        torch.autograd.backward([maps, alphas], [torch.ones_like(maps), torch.ones_like(alphas)])


def ours(gaussians: Gaussians, cameras: Cameras, backend: str, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        out = rasterize(gaussians, cameras, backend=backend)
    if backward:
        maps = [out.image, out.depth, out.alpha]
        torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])


def speed(points: int, size: tuple[int, int], args: argparse.Namespace) -> dict:
    gaussians, _, _ = make_scene(points, Mode("speed"), torch.float32, args.device)
    cameras = make_cameras(1, *size, torch.float32, args.device)
    row: dict = {"points": points, "width": size[0], "height": size[1]}
    for name, backward in (("forward", False), ("forward_backward", True)):
        ms = median_ms(lambda b=backward: ours(gaussians, cameras, args.backend, b), args.device, args.repeats)
        row[f"{name}_ms"], row[f"{name}_fps"] = ms, 1e3 / ms
        if args.backend == "gsplat":
            bare = median_ms(lambda b=backward: bare_gsplat(gaussians, cameras, b), args.device, args.repeats)
            row[f"bare_{name}_ms"], row[f"{name}_overhead"] = bare, ms / bare - 1
    if args.device == "cuda":
        row["peak_mb"] = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
    return row


def describe_machine(device: str) -> dict:
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    return {"gpu": gpu, "cuda": torch.version.cuda, "torch": torch.__version__, "python": platform.python_version()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("gsplat", "cpu"), default="gsplat")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--parity-points", type=int, default=2000)
    parser.add_argument("--points", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    args.device = "cuda" if args.backend == "gsplat" else "cpu"
    max_alpha = None
    if args.backend == "gsplat":
        from renderers import gsplat_cuda

        gsplat_cuda.load()
        max_alpha = gsplat_cuda.installed_max_alpha()
    report: dict = {"machine": describe_machine(args.device), "backend": args.backend, "parity": [], "speed": []}
    print(f"{'mode':<16} {'values':>9} {'gradients':>9} {'pixels off':>10} {'top id':>7}")
    for mode in MODES:
        row = parity(mode, args, max_alpha)
        report["parity"].append(row)
        text = f"{mode.name:<16} {max(row['values'].values()):9.1e} {max(row['gradients'].values()):9.1e}"
        verdict = "ok" if row["passed"] else "FAILED"
        print(f"{text} {row['pixels_off']:10.1e} {row['top_id_equal']:7.4f} {verdict}", flush=True)
    print(f"\n{'points':>8} {'size':>10}     forward and forward+backward, over bare gsplat")
    for points in args.points:
        for size in ((640, 480), (1920, 1080)):
            row = speed(points, size, args)
            report["speed"].append(row)
            text = f"{points:>8} {f'{size[0]}x{size[1]}':>10}"
            for name in ("forward", "forward_backward"):
                text += f"  {row[f'{name}_ms']:8.2f} ms {row[f'{name}_fps']:6.0f}/s"
                text += f" {100 * row[f'{name}_overhead']:+.0f} %" if f"{name}_overhead" in row else ""
            print(text, flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1))
    return 0 if all(row["passed"] for row in report["parity"]) else 1


if __name__ == "__main__":
    sys.exit(main())
