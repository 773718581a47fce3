"""The embeddings of a vocabulary's texts, which f and g compare images with."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from car.recipe import Arithmetic, Recipe
from car.vocabulary import Label, Vocabulary
from worker.segmenter.clip.encoder import Encoder


@dataclass(frozen=True)
class Characters:
    """The characters that the official code compares from step 2 on if it has no templates.

    Its filter by query index goes one level too deep and picks characters of each text. Texts share few characters, so
    each is embedded and compared once.
    """

    alphabet: Float[Tensor, "a d"]
    positions: Int[Tensor, "n n"]
    """Entry (s, i) is the index into the alphabet of character i of the templated text of query s."""

    def similarity(
        self, crops: Float[Tensor, "m d"], alive: list[int], scale: float, recipe: Recipe
    ) -> Float[Tensor, "m k"]:
        """Return classifier.similarity with the row of each query as a template's texts.

        The texts themselves are never stored: for a thousand queries they would take gigabytes.
        """
        if recipe.classifier_softmax is Arithmetic.PAPER:
            counts = functional.one_hot(self.positions[:, alive], len(self.alphabet)).sum(0).to(crops)
            means = functional.normalize(counts @ self.alphabet / len(self.positions), dim=-1)
            return (scale * crops @ means.T).softmax(-1)
        logits = scale * crops @ self.alphabet.T
        total = torch.zeros(len(crops), len(alive), device=crops.device)
        for row in self.positions[:, alive]:
            total += logits[:, row].softmax(-1)
        return total.softmax(-1)


@dataclass(frozen=True)
class Texts:
    """Embeddings of length 1, float32; row i is the vocabulary's label i. `c` is f's dimension, `d` is g's."""

    raw: Float[Tensor, "n c"]
    """The labels without a template, which the official CAM reads in step 1."""
    templated: Float[Tensor, "n c"]
    """The labels in the CAM's template."""
    background: Float[Tensor, "m c"]
    centre: Float[Tensor, " c"]
    """Mean of all texts above. CAMs depend on differences of texts alone, so it is subtracted before products are
    computed: then similar texts lose no digits."""
    classifier: Float[Tensor, "k n d"]
    """One row of texts per template."""
    characters: Characters | None = None
    """None unless the recipe has the official refer filter."""


def embed(proposal: Encoder, classifier: Encoder, vocabulary: Vocabulary, recipe: Recipe) -> Texts:
    """Embed every text of the vocabulary once.

    Raises:
        VocabularyError: a text has more tokens than CLIP reads; the message names it.

    """
    labels, cam = vocabulary.labels, vocabulary.cam_template
    templates = vocabulary.classifier_templates or (cam,)
    by_character = not vocabulary.classifier_templates and recipe.refer_filter is Arithmetic.OFFICIAL
    raw, templated = _ensembles(proposal, labels, "{}"), _ensembles(proposal, labels, cam)
    background = proposal.texts([cam.format(word) for word in vocabulary.background])
    return Texts(
        raw=raw,
        templated=templated,
        background=background,
        centre=torch.cat([raw, templated, background]).mean(0),
        classifier=torch.stack([_ensembles(classifier, labels, template) for template in templates]),
        characters=_characters(classifier, vocabulary) if by_character else None,
    )


def _ensembles(encoder: Encoder, labels: tuple[Label, ...], template: str) -> Float[Tensor, "n d"]:
    """Return one embedding per label: the mean of its prompts', normalised again (CLIP's usual ensembling)."""
    prompts = encoder.texts([template.format(prompt) for label in labels for prompt in label.prompts])
    parts = torch.split(prompts, [len(label.prompts) for label in labels])
    means = torch.stack([part.mean(0) for part in parts])
    return functional.normalize(means, dim=-1)


def _characters(encoder: Encoder, vocabulary: Vocabulary) -> Characters:
    """Return the characters of the templated texts. A text that is too short repeats its last character."""
    texts = [vocabulary.cam_template.format(label.prompts[0]) for label in vocabulary.labels]
    picked = [[text[min(i, len(text) - 1)] for i in range(len(texts))] for text in texts]
    alphabet = sorted({character for row in picked for character in row})
    index = {character: number for number, character in enumerate(alphabet)}
    positions = torch.tensor([[index[character] for character in row] for row in picked], device=encoder.device)
    return Characters(encoder.texts(alphabet), positions)
