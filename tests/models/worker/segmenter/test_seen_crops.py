"""What the recurrence shows g, and what g makes of it: the reference's crops whichever way they are made."""

import tracemalloc
from dataclasses import dataclass, replace

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
from worker.segmenter.prompts.device_prompts import DevicePrompts
from worker.segmenter.prompts.host_prompts import HostPrompts
from worker.segmenter.prompts.visual_prompts import apply_prompts, prepare
from worker.segmenter.recurrence import RecurrenceInput, RecurrenceResult, StepTrace, recur
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


def picture(seed: int, height: int, width: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), random.integers(0, 255, 3), np.uint8)
    for _ in range(3):
        y, x = random.integers(0, height - 16), random.integers(0, width - 16)
        image[y : y + random.integers(8, 40), x : x + random.integers(8, 40)] = random.integers(0, 255, 3)
    return np.clip(image + random.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


@dataclass
class Run:
    """One picture's recurrence as its driver sees it."""

    subject: RecurrenceInput
    crops: list[torch.Tensor]
    looks: list[StepTrace]
    rest: RecurrenceResult


def run(f: Encoder, g: Encoder, image: np.ndarray) -> Run:
    (encoded,) = proposals.encode(f, [image], RECIPE, at_once=1)
    vocabulary, looks, crops = Vocabulary.of(WORDS), list[StepTrace](), list[torch.Tensor]()
    subject = RecurrenceInput(
        image=image,
        encoded=encoded,
        vocabulary=vocabulary,
        texts=embed(f, g, vocabulary, RECIPE),
        recipe=RECIPE,
        prompts=RECIPE.visual_prompts,
        scales=(f.scale, g.scale),
        crop_size=g.image_size,
        observe=looks.append,
    )
    loop = recur(subject)
    crops.append(next(loop))
    while True:
        try:
            crops.append(loop.send(classifier.encode(g, crops[-1], RECIPE, at_once=4, padded=False)))
        except StopIteration as rest:
            return Run(subject, crops, looks, rest.value)


def reference(done: Run) -> list[np.ndarray]:
    """What g should have been shown, of the CAMs that an onlooker saw, and each of it once."""
    image, seen, crops = done.subject.image, set[bytes](), list[np.ndarray]()
    behind = prepare(image, RECIPE.visual_prompts, RECIPE)
    for look in done.looks:
        for sheet in look.cams:
            cam = enlarge(sheet, *image.shape[:2])
            mask = cam > RECIPE.eta
            key = b"" if cam.sum() <= 1 else mask.tobytes()
            if key not in seen and len(look.cams) > 1:
                crops.append(classifier.crop(apply_prompts(behind, mask) if key else image, done.subject.crop_size))
                seen.add(key)
    return crops


@pytest.mark.parametrize("made", [HostPrompts, DevicePrompts])
@pytest.mark.parametrize(("seed", "height", "width"), [(1, 72, 96), (2, 61, 83), (3, 130, 60)])
def test_the_recurrence_shows_what_the_reference_draws_and_nothing_twice(
    f: Encoder, g: Encoder, monkeypatch: pytest.MonkeyPatch, made: type, seed: int, height: int, width: int
) -> None:
    on_host = made is HostPrompts
    monkeypatch.setattr(recurrence, "prompter", lambda *given: made(*given[:2]) if on_host else made(*given))
    done = run(f, g, picture(seed, height, width))
    shown, expected = torch.cat(done.crops).numpy(), reference(done)
    assert len(done.looks) > 1
    assert len(expected) == len(shown) == done.rest.crops_encoded
    assert (shown == np.stack(expected)).all()
    asked = sum(len(look.cams) for look in done.looks if len(look.cams) > 1)
    assert done.rest.crops_reused == asked - len(shown)


def test_a_step_with_nothing_new_yields_no_crops_that_others_can_be_joined_to(f: Encoder, g: Encoder) -> None:
    done = run(f, g, picture(1, 72, 96))
    none = done.crops[0][:0]
    assert torch.cat([none, done.crops[0]]).equal(done.crops[0])
    assert classifier.encode(g, none, RECIPE, at_once=4, padded=True).shape == (0, g.width)


def test_an_embedding_in_a_padded_batch_depends_on_nothing_beside_it(g: Encoder) -> None:
    crops = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (13, 56, 56, 3), dtype=np.uint8))

    def encoded(some: torch.Tensor) -> torch.Tensor:
        return classifier.encode(g, some, RECIPE, at_once=5, padded=True)

    together = encoded(crops)
    for k in range(13):
        # At the same place in a batch with fewer companions, or with others.
        place = k % 5
        assert encoded(crops[k - place : k + 1])[place].equal(together[k])
        others = crops.flip(0)[:5].clone()
        others[place] = crops[k]
        assert encoded(others)[place].equal(together[k])


def test_many_words_never_hold_their_pictures_at_full_size() -> None:
    """As a thousand words at 1024 x 768 would, a seventh of it in each direction."""
    height, width, words, size = 110, 146, 1000, 14
    behind = prepare(picture(1, height, width), RECIPE.visual_prompts, RECIPE)
    random = np.random.default_rng(0)
    masks = [np.packbits(random.random((height, width)) > 0.5) for _ in range(words)]
    tracemalloc.start()
    crops = HostPrompts(behind, size).crops(masks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(crops) == words
    assert peak < crops.numel() + 30 * behind.image.nbytes < words * behind.image.nbytes / 10
