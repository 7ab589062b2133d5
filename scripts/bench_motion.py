"""Time `Scene4D.at` and its two kernels against their torch definitions in the same run.

    python scripts/bench_motion.py [--json FILE] [--gaussians N] [--handles J] [--knots K] [--repeats R]

Forward and forward+backward with gradients for every parameter of the motion (means, quaternions, opacity logits,
knots, handle weights, residuals, windows), in float32. One thread is measured in CPU time, two in wall time; each
figure is the median of the repeats, which take the backends in turns. `blend` is polynomial, blend and window of all
Gaussians (`move_gaussians`), `poses` the interpolation of all handles (`pose_transforms`), `at` the whole of it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from renderers.cpu_library import describe
from renderers.motion import move_gaussians
from renderers.poses import CUBIC, LINEAR, pose_transforms
from scene4d.motion import evaluate, motion_inputs, pose_inputs
from scene4d.rig import Rig
from scene4d.scene import Scene4D
from scene4d.scene_tools import scene_from_tensors, scene_tensors

TIME = 0.37  # seconds, between two knots
SLOTS = 4
THREADS = (1, 2)
CASES = {  # name: interpolation of the handles, degree of the residual motion, windows, handles have parents
    "rigged": (LINEAR, 1, True, False),
    "cubic": (CUBIC, 1, True, False),
    "chain": (LINEAR, 1, True, True),
    "handles only": (LINEAR, 0, False, False),
}


def make_scene(args: argparse.Namespace, case: str) -> Scene4D:
    interpolation, degree, windows, chain = CASES[case]
    g = torch.Generator().manual_seed(0)
    N, J, K = args.gaussians, args.handles, args.knots

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    ids = torch.zeros(N, dtype=torch.int32)
    parents = torch.arange(J, dtype=torch.int32) % 16 - 1  # chains of 16
    start = torch.arange(J, dtype=torch.int32) - parents - 1
    rig = Rig(
        centers=normal(J, 3),
        parents=torch.where(parents < 0, -1, start + parents) if chain else torch.full((J,), -1, dtype=torch.int32),
        instances=torch.zeros(J, dtype=torch.int32),
        interpolations=torch.full((J,), interpolation, dtype=torch.int32),
        knot_counts=torch.full((J,), K, dtype=torch.int32),
        knot_times=torch.linspace(0, 1, K).repeat(J),
        knot_quats=normal(J * K, 4),
        knot_translations=normal(J * K, 3),
    )
    scene = Scene4D(
        means=normal(N, 3),
        quats=normal(N, 4),
        log_scales=normal(N, 3),
        logit_opacities=normal(N),
        sh=normal(N, 1, 3),
        labels=ids,
        instances=ids.clone(),
        rig=rig,
        handle_ids=torch.randint(J, (N, SLOTS), generator=g, dtype=torch.int32),
        handle_logits=normal(N, SLOTS),
        residuals=normal(N, degree, 3) if degree else None,
        t_ref=normal(N) if degree else None,
        t_on=normal(N) - 1 if windows else None,
        t_off=normal(N) + 1 if windows else None,
        log_softness=normal(N) - 2 if windows else None,
    )
    tensors = {n: x.requires_grad_() if x.is_floating_point() else x for n, x in scene_tensors(scene).items()}
    return scene_from_tensors(tensors)


def actions_of(scene: Scene4D) -> dict[str, Callable[[str], list[Tensor]]]:
    """What is timed, as functions of the backend."""
    assert scene.rig is not None
    t = torch.tensor(TIME)
    poses = pose_inputs(scene.rig, t)
    with torch.no_grad():
        transforms = pose_transforms(poses)
    motion = motion_inputs(scene, t, transforms.requires_grad_())
    return {
        "blend": lambda backend: list(move_gaussians(motion, backend)),
        "poses": lambda backend: [pose_transforms(poses, backend)],
        "at": lambda backend: list(evaluate(scene, TIME, backend)),
    }


def run(action: Callable[[str], list[Tensor]], backend: str, leaves: list[Tensor], backward: bool) -> None:
    with torch.set_grad_enabled(backward):
        outputs = action(backend)
    if backward:
        outputs = [x for x in outputs if x.grad_fn is not None]
        torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs], allow_unused=True)


def time_ms(action: Callable[[], None], threads: int) -> float:
    torch.set_num_threads(threads)
    # CPU time of this thread alone: idle OpenMP workers spin for a while after a run with two
    clock = time.thread_time if threads == 1 else time.perf_counter
    start = clock()
    action()
    return 1e3 * (clock() - start)


def measure(args: argparse.Namespace, case: str) -> list[dict]:
    scene = make_scene(args, case)
    leaves = [x for x in scene_tensors(scene).values() if x.requires_grad]
    parts = actions_of(scene)
    times: dict[tuple[str, str, int, bool], list[float]] = {
        key: [] for key in itertools.product(parts, ("cpu", "torch"), THREADS, (False, True))
    }
    for repeat in range(1 + args.repeats):
        for (part, backend, threads, backward), taken in times.items():
            if backend == "torch" and repeat > 1 + args.repeats // 4:  # slow, and needs no sharper figure
                continue
            ms = time_ms(partial(run, parts[part], backend, leaves, backward), threads)
            if repeat:  # the first warms up
                taken.append(ms)
    rows = []
    for part in parts:
        for threads in THREADS:
            row: dict = {"case": case, "part": part, "threads": threads}
            for backend in ("cpu", "torch"):
                for name, backward in (("forward_ms", False), ("forward_backward_ms", True)):
                    row[f"{backend}_{name}"] = statistics.median(times[part, backend, threads, backward])
            row["speedup"] = row["torch_forward_backward_ms"] / row["cpu_forward_backward_ms"]
            rows.append(row)
    return rows


def text(row: dict) -> str:
    cpu = f"{row['cpu_forward_ms']:6.2f} / {row['cpu_forward_backward_ms']:6.2f} ms"
    reference = f"{row['torch_forward_ms']:6.1f} / {row['torch_forward_backward_ms']:6.1f} ms"
    name = f"{row['case']:<13} {row['part']:<6} {row['threads']} thread"
    return f"{name}  {cpu}   torch {reference}   {row['speedup']:.0f}x"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--gaussians", type=int, default=50_000)
    parser.add_argument("--handles", type=int, default=512)
    parser.add_argument("--knots", type=int, default=60, help="of each handle")
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    rows = []
    for case in CASES:
        for row in measure(args, case):
            rows.append(row)
            print(text(row), flush=True)
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    machine = {"cpu": model.group(1) if model else platform.processor(), "torch": torch.__version__, **describe()}
    if args.json:
        sizes = {name: getattr(args, name) for name in ("gaussians", "handles", "knots", "repeats")}
        args.json.write_text(json.dumps({"machine": machine, "sizes": sizes, "cases": rows}, indent=1))


if __name__ == "__main__":
    main()
