"""What the segmenter's benchmark runs on: random models of both sides, and the peaks of the machine."""

from dataclasses import dataclass

import torch
from transformers import CLIPModel

from evaluation.floor import Peaks, measure_peaks
from evaluation.official_encoder import OfficialEncoder
from evaluation.random_models import WordTokenizer, clip
from evaluation.segmenter_cost import Setting
from worker.segmenter.encoder import Encoder


@dataclass(frozen=True)
class Models:
    """f and g with random weights, in our precision and in the official code's."""

    ours: tuple[Encoder, Encoder]
    official: tuple[OfficialEncoder, OfficialEncoder]

    @classmethod
    def of(cls, setting: Setting) -> "Models":
        official = _clips(setting, setting.official_dtype)
        ours = official if setting.dtype == setting.official_dtype else _clips(setting, setting.dtype)
        if setting.blocks_dtype != setting.dtype:
            ours = ours[0], _clips(setting, setting.dtype)[1]
        f, g = (Encoder(clip, WordTokenizer()) for clip in ours)
        if setting.blocks_dtype != setting.dtype:
            g.round_blocks(setting.blocks_dtype)
        plain_f, plain_g = (OfficialEncoder(clip, WordTokenizer()) for clip in official)
        return cls((f, g), (plain_f, plain_g))


def _clips(setting: Setting, dtype: torch.dtype) -> tuple[CLIPModel, CLIPModel]:
    f, g = (
        clip(shape, seed=seed, gain=setting.gain, scale=setting.scale, dtype=dtype, device=setting.where)
        for seed, shape in enumerate(setting.shapes)
    )
    return f, g


def peaks_of(setting: Setting, *, share: float = 1.0) -> dict[torch.dtype, Peaks]:
    """The machine's, in both precisions in which something is computed."""
    return {
        dtype: measure_peaks(setting.where, dtype, share=share)
        for dtype in dict.fromkeys((setting.dtype, setting.blocks_dtype))
    }
