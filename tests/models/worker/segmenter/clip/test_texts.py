"""The official refer filter compares characters: each once, as if every sheet of them had been made."""

import pytest
import torch

from car.presets import preset
from car.recipe import Mode
from car.vocabulary import Vocabulary
from evaluation.random_models import TINY_F, TINY_G, encoder
from worker.segmenter import classifier
from worker.segmenter.clip import texts


@pytest.mark.parametrize("softmax", ["official", "paper"])
@pytest.mark.parametrize("alive", [[0, 1, 2], [0, 2]])
def test_characters_are_compared_as_if_every_sheet_of_them_were_made(softmax, alive):
    f, g = encoder(TINY_F, seed=0), encoder(TINY_G, seed=1)
    recipe = preset("refcoco").with_settings({"classifier_softmax": softmax})
    vocabulary = Vocabulary.of(["red car", "x", "the man on the left"], mode=Mode.REFER)
    found = texts.embed(f, g, vocabulary, recipe).characters
    assert found is not None
    crops = torch.nn.functional.normalize(torch.randn(len(alive), g.width, generator=torch.manual_seed(0)), dim=-1)
    sheets = found.alphabet[found.at][:, alive]
    expected = classifier.similarity(crops, sheets, g.scale, recipe, templated=True)
    torch.testing.assert_close(found.similarity(crops, alive, g.scale, recipe), expected)
