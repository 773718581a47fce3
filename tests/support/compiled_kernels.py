"""The kernels of the dense CRF, compiled from the source as it is."""

import os
import shutil

import pytest

from hatch_build import compile_kernels
from worker.segmenter.crf.compiled_arrays import CompiledArrays, load


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    kernels = load(str(compile_kernels(tmp_path_factory.mktemp("kernels"))))
    assert kernels is not None
    return CompiledArrays(kernels)
