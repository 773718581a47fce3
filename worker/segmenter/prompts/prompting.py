"""Where a picture's prompted crops are made: on the host for a CPU, on the device itself for any other."""

import torch

from worker.segmenter.prompts.device_prompts import DevicePrompts
from worker.segmenter.prompts.host_prompts import HostPrompts
from worker.segmenter.prompts.visual_prompts import PromptSource

Prompter = HostPrompts | DevicePrompts


def prompter(behind: PromptSource, size: int, device: torch.device) -> Prompter:
    """The faster of two ways to the same bits (benchmarks.prompts measures them): on a CPU that is Pillow, which
    skips what a mask leaves as it is; elsewhere the pictures need not come back to be resized.
    """
    return HostPrompts(behind, size) if device.type == "cpu" else DevicePrompts(behind, size, device)
