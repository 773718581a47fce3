"""The crops that the recurrence yields, and their embeddings: the host's crops, however they are made."""

import tracemalloc
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from car.presets import preset
from car.recipe import VisualPrompt
from car.vocabulary import Vocabulary
from evaluation import random_models
from worker.segmenter import classifier, proposals, recurrence
from worker.segmenter.clip.encoder import Encoder
from worker.segmenter.clip.texts import embed
from worker.segmenter.passes import PassResult, build_passes
from worker.segmenter.prompts.prompted_crops import DevicePrompts, host_crops
from worker.segmenter.prompts.visual_prompts import apply_prompts, prepare
from worker.segmenter.recurrence import RecurrenceInput, StepTrace, recur
from worker.segmenter.resizing import enlarge

WORDS = ("cat", "dog", "red car", "bird avian", "grass", "bottle", "bicycle", "chair seat")
# Scores of random models are spread thinly: this theta drops some words in every step.
RECIPE = replace(
    preset("coco"), theta=0.03, visual_prompts=(VisualPrompt.BLUR, VisualPrompt.CIRCLE, VisualPrompt.CONTOUR)
)


@pytest.fixture(scope="module")
def f() -> Encoder:
    return random_models.encoder(random_models.TINY_F, seed=1, scale=15, gain=4)


@pytest.fixture(scope="module")
def g() -> Encoder:
    return random_models.encoder(random_models.TINY_G, seed=2, scale=20, gain=4)


def make_image(seed: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(3):
        y, x = random.integers(0, height - 16), random.integers(0, width - 16)
        image[y : y + random.integers(8, 40), x : x + random.integers(8, 40)] = random.integers(0, 255, 3)
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


@dataclass
class Run:
    """The recurrence of an image as its driver sees it."""

    inputs: RecurrenceInput
    crops: list[torch.Tensor]
    traces: list[StepTrace]
    result: PassResult


def run(f: Encoder, g: Encoder, image: np.ndarray) -> Run:
    (encoded,) = proposals.encode(f, [image], RECIPE, batch_size=1)
    vocabulary, traces, crops = Vocabulary.from_words(WORDS), list[StepTrace](), list[torch.Tensor]()
    [spec] = build_passes(vocabulary, RECIPE)
    inputs = RecurrenceInput(
        image=image,
        encoded=encoded,
        spec=spec,
        texts=embed(f, g, vocabulary, RECIPE),
        recipe=RECIPE,
        scales=(f.scale, g.scale),
        crop_size=g.image_size,
        observe=traces.append,
    )
    loop = recur(inputs)
    crops.append(next(loop))
    while True:
        try:
            crops.append(loop.send(classifier.encode(g, crops[-1], RECIPE, batch_size=4, padded=False)))
        except StopIteration as end:
            return Run(inputs, crops, traces, end.value)


def expected_crops(finished: Run) -> list[np.ndarray]:
    """The crops of the observed CAMs, each of them once."""
    image, keys, crops = finished.inputs.image, set[bytes](), list[np.ndarray]()
    source = prepare(image, RECIPE.visual_prompts, RECIPE)
    for trace in finished.traces:
        for small_cam in trace.cams:
            cam = enlarge(small_cam, *image.shape[:2])
            mask = cam > RECIPE.eta
            key = b"" if cam.sum() <= 1 else mask.tobytes()
            if key not in keys and len(trace.cams) > 1:
                crops.append(classifier.crop(apply_prompts(source, mask) if key else image, finished.inputs.crop_size))
                keys.add(key)
    return crops


@pytest.mark.parametrize("on_host", [True, False], ids=["host", "device"])
@pytest.mark.parametrize(("seed", "height", "width"), [(1, 72, 96), (2, 61, 83), (3, 130, 60)])
def test_the_recurrence_yields_the_prompted_crops_and_none_twice(
    f: Encoder, g: Encoder, monkeypatch: pytest.MonkeyPatch, on_host: bool, seed: int, height: int, width: int
) -> None:
    def make_prompter(source, size, device):
        return partial(host_crops, source, size) if on_host else DevicePrompts(source, size, device).crops

    monkeypatch.setattr(recurrence, "make_prompter", make_prompter)
    finished = run(f, g, make_image(seed, height, width))
    crops, expected = torch.cat(finished.crops).numpy(), expected_crops(finished)
    assert len(finished.traces) > 1
    assert len(expected) == len(crops) == finished.result.work.crops_encoded
    assert (crops == np.stack(expected)).all()
    proposal_count = sum(len(trace.cams) for trace in finished.traces if len(trace.cams) > 1)
    assert finished.result.work.crops_reused == proposal_count - len(crops)


def test_no_crops_have_no_embeddings(g: Encoder) -> None:
    no_crops = torch.zeros(0, 56, 56, 3, dtype=torch.uint8)
    assert classifier.encode(g, no_crops, RECIPE, batch_size=4, padded=True).shape == (0, g.width)


def test_an_embedding_in_a_padded_batch_does_not_depend_on_the_other_crops(g: Encoder) -> None:
    crops = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (13, 56, 56, 3), dtype=np.uint8))

    def encode(crops: torch.Tensor) -> torch.Tensor:
        return classifier.encode(g, crops, RECIPE, batch_size=5, padded=True)

    together = encode(crops)
    for k in range(13):
        # At the same position in a batch with fewer crops, or with others.
        position = k % 5
        assert encode(crops[k - position : k + 1])[position].equal(together[k])
        others = crops.flip(0)[:5].clone()
        others[position] = crops[k]
        assert encode(others)[position].equal(together[k])


def test_a_thousand_prompted_images_never_exist_at_full_size() -> None:
    """A seventh of 1024 x 768 in each direction."""
    height, width, words, size = 110, 146, 1000, 14
    source = prepare(make_image(1, height, width), RECIPE.visual_prompts, RECIPE)
    random = np.random.default_rng(0)
    masks = [np.packbits(random.random((height, width)) > 0.5) for _ in range(words)]
    tracemalloc.start()
    crops = host_crops(source, size, masks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(crops) == words
    assert peak < crops.numel() + 30 * source.image.nbytes < words * source.image.nbytes / 10
