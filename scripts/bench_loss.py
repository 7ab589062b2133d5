"""Time the photometric loss against its torch definition in the same run.

    python scripts/bench_loss.py [--json FILE] [--repeats R] [--quick]

Forward (without a gradient) and forward+backward with the gradient of the image, in float32. One thread is measured in
CPU time, two in wall time; each figure is the median of the repeats, which take the backends in turns; the best is
given as well. `loss` is L1 and SSIM, `weighted` the same with a weight for every pixel, `l1` is without SSIM.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from renderers.cpu_library import describe
from renderers.photometric import photometric_loss

SIZES = ((480, 270), (960, 540), (1920, 1080))
THREADS = (1, 2)
CASES = {"loss": (False, 0.2), "weighted": (True, 0.2), "l1": (False, 0.0)}  # has weights, ssim_weight


def run(image: Tensor, truth: Tensor, case: tuple[Tensor | None, float], backend: str, backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        loss = photometric_loss(image, truth, *case, backend=backend)
    if backward:
        torch.autograd.grad(loss, image)


def time_ms(action: partial[None], threads: int) -> float:
    torch.set_num_threads(threads)
    # CPU time of this thread alone: idle OpenMP workers spin for a while after a run with two
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    action()
    return 1e3 * (clock() - start)


def measure(width: int, height: int, repeats: int) -> list[dict]:
    g = torch.Generator().manual_seed(0)
    image = torch.rand(height, width, 3, generator=g).requires_grad_()
    truth, weights = torch.rand(height, width, 3, generator=g), torch.rand(height, width, generator=g)
    keys = itertools.product(CASES, ("cpu", "torch"), THREADS, (False, True))
    times: dict[tuple[str, str, int, bool], list[float]] = {key: [] for key in keys}
    for repeat in range(1 + repeats):
        for (name, backend, threads, backward), taken in times.items():
            if backend == "torch" and repeat > 1 + repeats // 4:  # slow, and needs no sharper figure
                continue
            weighted, ssim_weight = CASES[name]
            case = (weights if weighted else None, ssim_weight)
            ms = time_ms(partial(run, image, truth, case, backend, backward), threads)
            if repeat:  # the first warms up
                taken.append(ms)
    rows = []
    for name, threads in itertools.product(CASES, THREADS):
        row: dict = {"width": width, "height": height, "case": name, "threads": threads}
        for backend, (part, backward) in itertools.product(
            ("cpu", "torch"), (("forward", False), ("forward_backward", True))
        ):
            taken = times[name, backend, threads, backward]
            row[f"{backend}_{part}_ms"], row[f"{backend}_{part}_best_ms"] = statistics.median(taken), min(taken)
        row["speedup"] = row["torch_forward_backward_ms"] / row["cpu_forward_backward_ms"]
        rows.append(row)
    return rows


def text(row: dict) -> str:
    cpu = f"{row['cpu_forward_ms']:6.2f} / {row['cpu_forward_backward_ms']:6.2f} ms"
    best = f"best {row['cpu_forward_backward_best_ms']:6.2f}"
    reference = f"{row['torch_forward_ms']:7.1f} / {row['torch_forward_backward_ms']:7.1f} ms"
    name = f"{row['width']:>4}x{row['height']:<4} {row['case']:<8} {row['threads']} thread"
    return f"{name}  {cpu} ({best})   torch {reference}   {row['speedup']:.0f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--quick", action="store_true", help="the smallest picture only")
    args = parser.parse_args()
    rows = []
    for width, height in SIZES[: 1 if args.quick else None]:
        for row in measure(width, height, args.repeats):
            rows.append(row)
            print(text(row), flush=True)
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    machine = {"cpu": model.group(1) if model else platform.processor(), "torch": torch.__version__, **describe()}
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "repeats": args.repeats, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
