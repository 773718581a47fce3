"""The official refer filter compares characters, each of them once."""

import pytest
import torch

from car.presets import apply_settings, preset
from car.recipe import Mode
from car.vocabulary import Vocabulary
from evaluation.random_models import TINY_F, TINY_G, encoder
from worker.segmenter import classifier
from worker.segmenter.clip import texts


@pytest.mark.parametrize("softmax", ["official", "paper"])
@pytest.mark.parametrize("alive", [[0, 1, 2], [0, 2]])
def test_characters_are_compared_as_if_they_were_texts_of_templates(softmax, alive):
    f, g = encoder(TINY_F, seed=0), encoder(TINY_G, seed=1)
    recipe = apply_settings(preset("refcoco"), {"classifier_softmax": softmax})
    vocabulary = Vocabulary.from_words(["red car", "x", "the man on the left"], mode=Mode.REFER)
    characters = texts.embed(f, g, vocabulary, recipe).characters
    assert characters is not None
    crops = torch.nn.functional.normalize(torch.randn(len(alive), g.width, generator=torch.manual_seed(0)), dim=-1)
    repeated = characters.alphabet[characters.positions][:, alive]
    expected = classifier.similarity(crops, repeated, g.scale, recipe, templated=True)
    torch.testing.assert_close(characters.similarity(crops, alive, g.scale, recipe), expected)
