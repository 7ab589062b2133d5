"""What works on this machine: the facts behind `scene4d doctor`. Nothing here raises; what is wrong is a finding."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

CORE = ("torch", "numpy", "scipy", "opencv-python-headless", "av", "pillow", "safetensors", "plyfile", "tyro", "rich")
INSTALL = "in the checkout: pip install -c constraints.txt -e "
IMPORT_TIMEOUT = 120  # s; importing torch from a cold network disk takes tens of seconds


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    available: bool
    detail: str = ""  # version, device, path
    why: str = ""  # why it is not available
    fix: str = ""  # what the user can do about it, if anything
    used_for: str = ""  # what this version does with it


@dataclass(frozen=True)
class Package:
    """A package that users ask about."""

    name: str
    used_for: str
    fix: str  # where it is not installed
    minimum: tuple[int, ...] = ()
    below: tuple[int, ...] = ()
    libraries: tuple[str, ...] = ()  # shared libraries of the system that it loads


PACKAGES = (
    Package("torch", "everything", INSTALL + ".", minimum=(2, 10)),
    Package("gsplat", "backend gsplat", INSTALL + "'.[gpu]'", minimum=(1, 5, 3)),
    Package("nerfstudio", "", "give it an environment of its own: it pins old versions of viser, gsplat and opencv"),
    Package("diffusers", "", INSTALL + "'.[diffusion]'"),
    Package("pytorch3d", "", "build it from source against your torch: it has no wheels for current Pythons"),
    Package(
        "open3d",
        "",
        INSTALL + "'.[geometry]'",
        libraries=("libGL.so.1", "libgomp.so.1", "libusb-1.0.so.0", "libEGL.so.1", "libX11.so.6"),
    ),
    Package("tyro", "command line", INSTALL + "."),
    Package("viser", "", INSTALL + "'.[viewer]'", minimum=(1, 1), below=(1, 2)),
)
RAFT = Finding(
    "RAFT", False, why="it is no package, and this version does not read its checkpoints yet", fix="nothing to do"
)


def installed_version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def describe_machine() -> dict[str, object]:
    """Versions and hardware; `memory_gb` is None where the system does not tell."""
    try:
        memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        memory_gb = None
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "memory_gb": memory_gb,
    }


def processor_name() -> str:
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def examine_compiler() -> Finding:
    """The C++ compiler that `renderers/build.py` takes; needed only to build."""
    command = os.environ.get("CXX", "g++")
    fix = "apt-get install g++, or set CXX to another compiler"
    path = shutil.which(command)
    if path is None:
        return Finding("compiler", False, why=f"{command} not found", fix=fix)
    run = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if run.returncode != 0:
        return Finding("compiler", False, path, f"`{path} --version` ends with code {run.returncode}", fix)
    return Finding("compiler", True, f"{path}: {run.stdout.splitlines()[0]}")


def examine_cpu_library() -> tuple[Finding, dict[str, object]]:
    """The compiled C++ library, and what it says of itself: variant, path, features, threads ({} if it is missing)."""
    try:
        facts = import_module("renderers.cpu_library").describe()
    except (ImportError, OSError, RuntimeError) as error:
        return Finding("C++ library", False, why=one_line(error), fix="python -m renderers.build"), {}
    return Finding("C++ library", True, str(facts["path"])), {key: plain(value) for key, value in facts.items()}


def plain(value: object) -> object:
    """`value` as JSON can hold it."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)


def examine_gpu() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("GPU", False, why=f"torch cannot be imported: {one_line(error)}", fix=INSTALL + ".")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} ({device.total_memory / 2**30:.0f} GiB)" for device in devices)
        return Finding("GPU", True, f"{names}, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", False, why="no NVIDIA driver found (no nvidia-smi)", fix="none needed: the CPU is used")
    if torch.version.cuda is None:
        return Finding("GPU", False, why=f"torch {torch.__version__} is a CPU build", fix="install torch's CUDA build")
    return Finding(
        "GPU", False, why=f"torch (CUDA {torch.version.cuda}) sees no device", fix="run nvidia-smi; update the driver"
    )


def examine_backends(gpu: Finding) -> list[Finding]:
    """Each backend of `renderers.rasterize`, by rendering with it. Compiles gsplat's kernels if they are not yet."""
    gsplat = installed_version("gsplat")
    if gsplat is None:
        third = Finding("gsplat", False, why="gsplat is not installed", fix=INSTALL + "'.[gpu]'")
    elif not gpu.available:
        third = Finding("gsplat", False, gsplat, "it needs a CUDA GPU", "none needed: backend cpu is used")
    else:
        third = examine_backend("gsplat", "cuda", gsplat, "see what `import gsplat` and its compiler (nvcc) say")
    torch = installed_version("torch") or ""
    return [
        examine_backend("torch", "cpu", torch, INSTALL + "."),
        examine_backend("cpu", "cpu", "", "python -m renderers.build"),
        third,
    ]


def examine_backend(name: str, device: str, detail: str, fix: str) -> Finding:
    try:
        error = import_module("scene4d.known_image").largest_error(name, device)
    except Exception as problem:  # whatever it is, it is what the user wants to know
        return Finding(name, False, detail, f"{type(problem).__name__}: {one_line(problem)}", fix)
    if not error < 1e-3:  # gsplat's fast exp is off by 1e-6; a wrong convention by 0.1; NaN must fail
        return Finding(name, False, detail, f"a known image comes out wrong by {error:.3g}", fix)
    return Finding(name, True, detail)


def examine_torchvision() -> Finding | None:
    """None if it is not installed, as it should be: published wheels are CUDA builds and break beside a CPU torch."""
    if find_spec("torchvision") is None:
        return None
    detail = installed_version("torchvision") or ""
    fix = "pip uninstall torchvision (scene4d does without), or install the build that belongs to your torch"
    command = [sys.executable, "-W", "ignore", "-c", "import torchvision"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=IMPORT_TIMEOUT)
    except subprocess.TimeoutExpired:
        return Finding("torchvision", False, detail, f"importing it takes over {IMPORT_TIMEOUT} s", fix)
    if run.returncode == 0:
        return Finding("torchvision", True, detail)
    why = run.stderr.strip().splitlines()[-1:] or [f"importing it ends with code {run.returncode}"]
    return Finding("torchvision", False, detail, why[0], fix)


def examine_packages(torchvision: Finding | None) -> list[Finding]:
    """The packages that users ask about, without importing them."""
    findings = list(map(examine_package, PACKAGES))
    if torchvision is not None and not torchvision.available:
        spoiled = partial(Finding, available=False, why="its import fails beside the broken torchvision")
        findings = [
            spoiled(found.name, detail=found.detail, fix=torchvision.fix, used_for=found.used_for)
            if found.name == "diffusers" and found.available
            else found
            for found in findings
        ]
    return [*findings, RAFT]


def examine_package(package: Package) -> Finding:
    found = installed_version(package.name)
    finding = partial(Finding, package.name, used_for=package.used_for)
    if found is None or find_spec(package.name) is None:
        return finding(False, why="not installed", fix=package.fix)
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if numbers < package.minimum or (package.below and numbers >= package.below):
        return finding(False, found, f"needs {version_range(package)}", package.fix)
    missing = [library for library in package.libraries if not can_load(library)]
    if missing:
        fix = "apt-get install libgl1 libgomp1 libusb-1.0-0 libegl1 libx11-6"
        return finding(False, found, f"the system lacks {', '.join(missing)}", fix)
    return finding(True, found)


def version_range(package: Package) -> str:
    bounds = ((">=", package.minimum), ("<", package.below))
    return ",".join(sign + ".".join(map(str, bound)) for sign, bound in bounds if bound)


def can_load(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
