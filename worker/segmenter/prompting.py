"""Where a picture's prompted crops are made: on the host for a CPU, on the device itself for any other."""

import torch

from worker.segmenter.device_prompts import DevicePrompts
from worker.segmenter.host_prompts import HostPrompts
from worker.segmenter.visual_prompts import Backdrop

Prompter = HostPrompts | DevicePrompts


def prompter(behind: Backdrop, size: int, device: torch.device) -> Prompter:
    """The faster of two ways to the same bits (benchmarks.prompts measures them): on a CPU that is Pillow, which
    skips what a mask leaves as it is; elsewhere the pictures need not come back to be resized.
    """
    return HostPrompts(behind, size) if device.type == "cpu" else DevicePrompts(behind, size, device)
