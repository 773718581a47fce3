"""What the dense CRF computes with: numpy, torch and the compiled kernels in turn."""

import pytest
import torch

from worker.segmenter.crf.arrays import Arrays
from worker.segmenter.crf.device_arrays import DeviceArrays


@pytest.fixture(params=["host", "device", "compiled"])
def arrays(request):
    match request.param:
        case "host":
            return Arrays()
        case "device":
            return DeviceArrays(torch.device("cpu"))
    return request.getfixturevalue("compiled")
