"""A vocabulary as embeddings, what f and g compare pictures with: computed once, whatever the pictures."""

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
    """What the official code compares from step 2 on where it has no templates: filtering by query index goes one level
    too deep and picks characters of each text. Texts share few characters, so each is embedded and compared once.
    """

    alphabet: Float[Tensor, "a d"]
    at: Int[Tensor, "n n"]
    """Row (s, i): where in the alphabet character i of the templated text of query s is."""

    def similarity(
        self, crops: Float[Tensor, "m d"], alive: list[int], scale: float, recipe: Recipe
    ) -> Float[Tensor, "m k"]:
        """What worker.segmenter.classifier.similarity gives of one sheet of texts a query, without making the sheets:
        for a thousand queries they would take gigabytes.
        """
        if recipe.classifier_softmax is Arithmetic.PAPER:
            counts = functional.one_hot(self.at[:, alive], len(self.alphabet)).sum(0).to(crops)
            means = functional.normalize(counts @ self.alphabet / len(self.at), dim=-1)
            return (scale * crops @ means.T).softmax(-1)
        logits = scale * crops @ self.alphabet.T
        total = torch.zeros(len(crops), len(alive), device=crops.device)
        for row in self.at[:, alive]:
            total += logits[:, row].softmax(-1)
        return total.softmax(-1)


@dataclass(frozen=True)
class Texts:
    """Embeddings of length 1, float32; row i is the vocabulary's label i. `c` is f's space, `d` is g's."""

    raw: Float[Tensor, "n c"]
    """The words as they are: what the official CAM sees in step 1."""
    templated: Float[Tensor, "n c"]
    """The words in the CAM's template."""
    background: Float[Tensor, "m c"]
    centre: Float[Tensor, " c"]
    """Mean of all texts above. A CAM depends on differences of texts alone, so products are taken of what is left
    without it: texts that resemble each other then lose no digits."""
    classifier: Float[Tensor, "k n d"]
    """One sheet a template."""
    characters: Characters | None = None
    """Only for the official refer filter."""


def embed(proposal: Encoder, classifier: Encoder, vocabulary: Vocabulary, recipe: Recipe) -> Texts:
    """Every text of the vocabulary through its tower, each once.

    Raises:
        VocabularyError: a text of more tokens than CLIP reads; the message names it.

    """
    labels, cam = vocabulary.labels, vocabulary.cam_template
    templates = vocabulary.classifier_templates or (cam,)
    characters = None
    if not vocabulary.classifier_templates and recipe.refer_filter is Arithmetic.OFFICIAL:
        characters = _characters(classifier, vocabulary)
    raw, templated = _ensembles(proposal, labels, "{}"), _ensembles(proposal, labels, cam)
    background = proposal.texts([cam.format(word) for word in vocabulary.background])
    return Texts(
        raw=raw,
        templated=templated,
        background=background,
        centre=torch.cat([raw, templated, background]).mean(0),
        classifier=torch.stack([_ensembles(classifier, labels, template) for template in templates]),
        characters=characters,
    )


def _ensembles(encoder: Encoder, labels: tuple[Label, ...], template: str) -> Float[Tensor, "n d"]:
    """One embedding a label: the mean of its prompts', of length 1 again (CLIP's usual ensembling)."""
    prompts = encoder.texts([template.format(prompt) for label in labels for prompt in label.prompts])
    parts = torch.split(prompts, [len(label.prompts) for label in labels])
    means = torch.stack([part.mean(0) for part in parts])
    return functional.normalize(means, dim=-1)


def _characters(encoder: Encoder, vocabulary: Vocabulary) -> Characters:
    """Of the templated texts. A text that is too short lends its last character."""
    texts = [vocabulary.cam_template.format(label.prompts[0]) for label in vocabulary.labels]
    picked = [[text[min(i, len(text) - 1)] for i in range(len(texts))] for text in texts]
    alphabet = sorted({character for row in picked for character in row})
    place = {character: number for number, character in enumerate(alphabet)}
    at = torch.tensor([[place[character] for character in row] for row in picked], device=encoder.device)
    return Characters(encoder.texts(alphabet), at)
