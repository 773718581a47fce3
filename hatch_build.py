"""Build hook: compiles the dense CRF's kernels into the wheel, or into the source tree (`python hatch_build.py`).

They are plain C without Python's headers, so one library serves every Python. Without a compiler the CRF runs on numpy
and scipy.
"""

import os
import platform
import re
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).parent / "worker" / "segmenter" / "crf" / "lattice.c"
# No option may let results depend on the processor: no contraction, no -march, no fast mathematics.
OPTIONS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


_OLDEST_GLIBC = (2, 17)
"""That of manylinux2014, the oldest that Python's wheels for all processors name."""


class KernelsHook(BuildHookInterface[Any]):
    """hatchling's hook; see the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        try:
            library = compile_kernels()
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(f"could not compile the CRF's kernels ({error}): it will run on scipy, slower")
            return
        build_data |= {"pure_python": False, "tag": f"py3-none-{platform_tag(library)}"}


def platform_tag(library: Path) -> str:
    """Return the platforms that a wheel with this library runs on.

    On Linux with glibc that is manylinux of the newest symbol version in it (PEP 600): it needs libc and libm alone.
    """
    name = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    if not name.startswith("linux_") or platform.libc_ver()[0] != "glibc":
        return name
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", library.read_bytes())
    major, minor = max([_OLDEST_GLIBC, *((int(major), int(minor)) for major, minor in versions)])
    return f"manylinux_{major}_{minor}_{name.removeprefix('linux_')}"


def compile_kernels(folder: Path | None = None) -> Path:
    """Compile the library. Its name holds a checksum of the source, so a library of another source is never loaded."""
    folder = folder or SOURCE.parent
    library = folder / f"lattice-{zlib.crc32(SOURCE.read_bytes()):08x}.so"
    temporary = library.with_suffix(f".{os.getpid()}")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *OPTIONS, SOURCE, "-o", temporary, "-lm"], check=True)  # noqa: S603 - the user's compiler
    temporary.replace(library)  # atomic, for processes that load it meanwhile
    for old in set(folder.glob("lattice-*.so")) - {library}:
        old.unlink()
    return library


if __name__ == "__main__":
    sys.stdout.write(f"{compile_kernels()}\n")
