"""Compile the C++ backend: `python renderers/build.py`. Needs a C++20 compiler with OpenMP (g++ >= 10), nothing else.

One shared library per CPU variant goes to `renderers/_lib/`, with the hash of the sources in its name; what is already
there is not built again. The environment variable CXX names another compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "csrc"
LIBRARIES = Path(__file__).resolve().parent / "_lib"
VARIANTS = {  # by machine, best first
    "x86_64": {"x86-64-v3": ["-march=x86-64-v3"], "x86-64-v2": ["-march=x86-64-v2"]},
    "aarch64": {"arm64": ["-march=armv8-a"]},
}
FLAGS = ["-std=c++20", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC", "-fvisibility=hidden"]
UNITS = {  # object file -> source and definitions
    "f32": ("exports.cpp", ["-DREAL=float", "-DSUFFIX=f32"]),
    "f64": ("exports.cpp", ["-DREAL=double", "-DSUFFIX=f64"]),
    "motion_f32": ("motion_exports.cpp", ["-DREAL=float", "-DSUFFIX=f32"]),
    "motion_f64": ("motion_exports.cpp", ["-DREAL=double", "-DSUFFIX=f64"]),
    "photometric_f32": ("photometric_exports.cpp", ["-DREAL=float", "-DSUFFIX=f32"]),
    "photometric_f64": ("photometric_exports.cpp", ["-DREAL=double", "-DSUFFIX=f64"]),
    "common": ("common.cpp", []),
}


def variants(machine: str | None = None) -> dict[str, list[str]]:
    """CPU variants of a machine type (default: this one) and their compiler flags, best first."""
    machine = machine or platform.machine()
    if machine not in VARIANTS:
        raise RuntimeError(f"the cpu backend supports {', '.join(VARIANTS)}, this machine is {machine}")
    return VARIANTS[machine]


def library_path(variant: str, folder: Path = LIBRARIES) -> Path:
    """Where the library of a variant is, or will be, for the sources as they are now."""
    digest = hashlib.sha256(repr((FLAGS, UNITS)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return folder / f"librenderers-{variant}-{digest.hexdigest()[:12]}.so"


def build(names: list[str] | None = None, folder: Path = LIBRARIES, machine: str | None = None) -> list[Path]:
    """Build the named variants (default: all of the machine); returns their paths.

    Raises RuntimeError with the compiler's message if there is no compiler or it fails.
    """
    known = variants(machine)
    wanted = {name: library_path(name, folder) for name in names or known}
    missing = {name: path for name, path in wanted.items() if not path.exists()}
    if missing:
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            raise RuntimeError(f"no C++ compiler {compiler!r}: install g++ (Debian: apt install g++) or set CXX")
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in missing.items():
            _compile(compiler, known[name], path)
            for stale in set(folder.glob(f"librenderers-{name}-*.so")) - {path}:
                stale.unlink(missing_ok=True)
    return list(wanted.values())


def _compile(compiler: str, flags: list[str], path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        objects = [str(Path(scratch) / f"{unit}.o") for unit in UNITS]
        commands = [
            [compiler, *FLAGS, *flags, *defines, "-c", str(SOURCES / source), "-o", target]
            for (source, defines), target in zip(UNITS.values(), objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands))
        library = Path(scratch) / path.name
        _run([compiler, "-shared", "-fopenmp", *objects, "-o", str(library)])
        os.replace(library, path)


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr.strip()}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the C++ backend.")
    parser.add_argument("--machine", default=None, help="machine to compile for; set CXX to a cross-compiler")
    parser.add_argument("--out", type=Path, default=LIBRARIES, help="folder of the libraries")
    args = parser.parse_args()
    try:
        paths = build(folder=args.out, machine=args.machine)
    except RuntimeError as error:
        sys.stderr.write(f"renderers/build.py: {error}\n")
        return 1
    sys.stdout.write("".join(f"{path}\n" for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
