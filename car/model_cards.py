"""Model cards: the names of weights, and the words that they know, in a file that lies beside them."""

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from car.clip_tokenizer import clean_text
from car.vocabulary import Vocabulary

CARD = "card.json"
_NAMED = 5
"""Unknown words that a warning names."""


@dataclass(frozen=True)
class ModelCard:
    """What is said about weights. Those of open-vocabulary models say their name only."""

    name: str
    words: tuple[str, ...] = ()
    """The words that they know; empty: any word."""
    note: str = ""
    """One sentence about what they are good for."""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        return cls(str(document["name"]), tuple(map(str, document["words"])), str(document["note"]))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def unknown_words(self, vocabulary: Vocabulary) -> dict[str, str | None]:
        """Return each prompt that the model does not know, with the nearest word that it knows."""
        known = {clean_text(word): word for word in self.words}
        texts = [prompt for label in vocabulary.labels for prompt in label.prompts]
        unknown = [text for text in texts if known and clean_text(text) not in known]
        return {text: next(iter(difflib.get_close_matches(clean_text(text), known, 1, 0.75)), None) for text in unknown}


def read_card(folder: Path, name: str) -> ModelCard:
    """Return the card in a model's folder or in the one that holds its models; without one, only the name."""
    for path in (folder / CARD, folder.parent / CARD):
        try:
            return ModelCard.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ModelCard(name)


def badge(cards: Iterable[ModelCard], vocabulary: Vocabulary) -> str:
    """Return a short line for images and tables: models that know few words, and the words that they do not know."""
    lines = []
    for card in dict.fromkeys(cards):
        if card.words:
            unknown = [repr(word) for word in card.unknown_words(vocabulary)]
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            words = f"; unknown to them: {', '.join(unknown[:_NAMED])}{more}" if unknown else ""
            lines.append(f"models: {card.name}, {len(card.words)} words{words}")
    return "; ".join(lines)


def vocabulary_warnings(cards: Iterable[ModelCard], vocabulary: Vocabulary) -> list[str]:
    """Return what a user must know before the models with these cards segment images for this vocabulary."""
    warnings = []
    for card in dict.fromkeys(cards):
        if card.note:
            warnings.append(card.note)
        unknown = card.unknown_words(vocabulary)
        for word, near in list(unknown.items())[:_NAMED]:
            hint = f"; did you mean {near!r}?" if near else ""
            warnings.append(f"{word!r} is unknown to the {card.name} models: its masks and scores mean nothing{hint}")
        if len(unknown) > _NAMED:
            warnings.append(f"{len(unknown) - _NAMED} more words are unknown to the {card.name} models")
    return warnings
