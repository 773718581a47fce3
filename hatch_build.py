"""Compiles the dense CRF's kernels into the wheel, or into the tree for an editable one: `python hatch_build.py`.

They are plain C without Python's headers, so one library serves every Python. Where there is no compiler, the CRF runs
on numpy and scipy.
"""

import os
import subprocess
import sys
import sysconfig
import zlib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).parent / "worker" / "segmenter" / "crf" / "lattice.c"
# No option here lets bits hang on the processor: no contraction, no -march, no fast mathematics.
OPTIONS = ["-O3", "-std=gnu11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


class KernelsHook(BuildHookInterface[Any]):
    """See the module."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        try:
            compile_kernels()
        except (OSError, subprocess.CalledProcessError) as error:
            self.app.display_warning(
                f"the CRF's kernels were not compiled ({error}): it will run on scipy, more slowly"
            )
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data |= {"pure_python": False, "tag": f"py3-none-{platform}"}


def compile_kernels(folder: Path | None = None) -> Path:
    """The library; its name holds what the source was, so that none is loaded for a source that has changed."""
    folder = folder or SOURCE.parent
    library = folder / f"lattice-{zlib.crc32(SOURCE.read_bytes()):08x}.so"
    fresh = library.with_suffix(f".{os.getpid()}")
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *OPTIONS, SOURCE, "-o", fresh, "-lm"], check=True)  # noqa: S603 - the user's compiler
    fresh.replace(library)  # whole or not at all, whoever loads it meanwhile
    for old in set(folder.glob("lattice-*.so")) - {library}:
        old.unlink()
    return library


if __name__ == "__main__":
    sys.stdout.write(f"{compile_kernels()}\n")
