"""Compile the C++ backend into the wheel. Everything else about the package stands in pyproject.toml."""

import importlib.util
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

BUILD_SCRIPT = Path(__file__).parent / "renderers" / "build.py"


def compile_library() -> None:
    # Loaded by path: `import renderers` would need torch, which an isolated build has not got.
    spec = importlib.util.spec_from_file_location("renderers_build", BUILD_SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.build()


class BuildPyWithLibrary(build_py):
    def run(self) -> None:
        if not self.editable_mode:  # an editable install is compiled in place: `python -m renderers.build`
            compile_library()
            self.data_files = self._get_data_files()  # look again: the library was not there before
        super().run()


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:  # makes setuptools treat the wheel as made for one platform
        return True


class PlatformWheel(bdist_wheel):
    """Any Python 3, one platform: the library is loaded by ctypes and knows no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(distclass=PlatformDistribution, cmdclass={"build_py": BuildPyWithLibrary, "bdist_wheel": PlatformWheel})
