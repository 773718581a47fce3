"""Whose operations the dense CRF runs on: each in turn, the kernels built from the source as it is."""

import os
import shutil

import pytest
import torch

from hatch_build import compile_kernels
from worker.segmenter.arrays import HostArrays
from worker.segmenter.compiled import CompiledArrays, load
from worker.segmenter.device_arrays import DeviceArrays


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    kernels = load(str(compile_kernels(tmp_path_factory.mktemp("kernels"))))
    assert kernels is not None
    return CompiledArrays(kernels)


@pytest.fixture(params=["host", "device", "compiled"])
def arrays(request):
    match request.param:
        case "host":
            return HostArrays()
        case "device":
            return DeviceArrays(torch.device("cpu"))
    return request.getfixturevalue("compiled")
