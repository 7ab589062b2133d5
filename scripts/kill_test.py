"""Kill fits at random moments, resume them, and compare the scene with that of a fit that was left alone.

    python scripts/kill_test.py CAPTURE --kills 10 -- --preset draft --steps 200

What stands after `--` goes to `scene4d fit`. Where a fit ends before all kills are done, another one is begun. Exit
code 1 if a hash differs.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from scene4d.files.project import load_project
from scene4d.runs import METRICS, list_runs
from scene4d.scene_tools import scene_hash

LONGEST = 0.5  # of the time that a whole fit takes, between two kills


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], usage="%(prog)s CAPTURE [--kills N] [--seed S] [-- OPTIONS OF scene4d fit]"
    )
    parser.add_argument("capture", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the moments; default: other ones each time")
    own, options = split_at_dashes(sys.argv[1:])
    args = parser.parse_args(own)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.s4d"
        start, end = time_fit(fit_command(args.capture, whole, options), whole)
        expected = scene_hash(load_project(whole).scene)
        print(f"left alone   {expected}  {end:.1f} s, of which {start:.1f} s until the run began")
        found, kills = [], 0
        while kills < args.kills or not found:
            out = Path(folder) / f"killed{len(found)}.s4d"
            moments = (start + chance.random() * LONGEST * (end - start) for _ in range(kills, args.kills))
            times = killed_fit(args.capture, out, options, moments)
            kills += len(times)
            found.append(scene_hash(load_project(out).scene))
            when = ", ".join(f"{t:.1f}" for t in times)
            print(f"killed {len(times):2d} x  {found[-1]}  after {when} s")
    same = all(x == expected for x in found)
    print(f"{kills} kills, {len(found)} scenes: {'all the same' if same else 'NOT the same'}")
    return 0 if same else 1


def fit_command(capture: Path, out: Path, options: list[str]) -> list[str]:
    command = [sys.executable, "-m", "scene4d.cli", "fit", "--out", str(out)]
    if list_runs(out / "runs", "fit"):
        return [*command, "--resume"]
    return [*command, str(capture), *options]


def split_at_dashes(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and after the first `--`: argparse gives options between two positional ones no place."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def time_fit(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds until the run folder is there, and until the fit is done."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list_runs(out / "runs"):
        time.sleep(0.01)
    start = time.monotonic() - begin
    if process.wait():
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return start, time.monotonic() - begin


def killed_fit(capture: Path, out: Path, options: list[str], moments: Iterable[float]) -> list[float]:
    """Kill a fit after each of `moments` seconds and resume it, until it is done. Returns the moments that struck."""
    struck = []
    for moment in moments:
        if any((run / METRICS).is_file() for run in list_runs(out / "runs")):  # killed when all was done
            return struck
        process = subprocess.Popen(fit_command(capture, out, options), stdout=subprocess.DEVNULL)
        try:
            if process.wait(moment):
                sys.exit(f"{out}: the fit ended by itself with exit code {process.returncode}")
            return struck
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            struck.append(moment)
    if not any((run / METRICS).is_file() for run in list_runs(out / "runs")):
        subprocess.run(fit_command(capture, out, options), stdout=subprocess.DEVNULL, check=True)
    return struck


if __name__ == "__main__":
    sys.exit(main())
