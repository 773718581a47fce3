"""Vocabularies: labels with their prompts, background words and text templates."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Self

from car.clip_tokenizer import CONTEXT, SPECIAL_TOKENS, ClipTokenizer, clean_text
from car.errors import VocabularyError
from car.recipe import Mode
from car.text_data import BACKGROUNDS, CAM_TEMPLATE, CLASSIFIER_TEMPLATES

_BOM = "\N{BYTE ORDER MARK}"
MAX_LABELS = 2_000
MAX_CHARACTERS = 200
"""Bound for pages and keys; `Vocabulary.check_tokens` checks CLIP's own bound of 77 tokens."""
_SEAM = 4
"""More than the tokens that a word and its template can have at their seams."""


@dataclass(frozen=True)
class Label:
    """A class that masks carry, and the prompts that CLIP reads for it. Several prompts are one query, the mean of
    their text embeddings, so synonyms do not compete.
    """

    name: str
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        name = _word(self.name, "label")
        object.__setattr__(self, "name", name)
        prompts = tuple(_word(p, f"prompt of label {name!r}") for p in self.prompts)
        object.__setattr__(self, "prompts", prompts or (name,))

    @property
    def text(self) -> str:
        """Return the prompts as one line of text."""
        return " | ".join(self.prompts)


@dataclass(frozen=True)
class Vocabulary:
    """Labels in the order in which masks are returned.

    `background` words compete in the CAM's softmax and never become masks. `cam_template` is used for the texts of the
    CAM from step 2 on, and always for the background. Without `classifier_templates` the classifier uses it too.

    Raises:
        VocabularyError: a duplicate, empty or over-long word, a bad template, no label or more than 2,000; the message
            names the word.

    """

    labels: tuple[Label, ...]
    background: tuple[str, ...] = BACKGROUNDS["shipped"]
    cam_template: str = CAM_TEMPLATE
    classifier_templates: tuple[str, ...] = CLASSIFIER_TEMPLATES

    def __post_init__(self) -> None:
        if not self.labels:
            raise VocabularyError("the vocabulary is empty: give at least one label")
        if len(self.labels) > MAX_LABELS:
            raise VocabularyError(f"{len(self.labels)} labels are too many: a vocabulary holds at most {MAX_LABELS}")
        _refuse_duplicates("label", (label.name for label in self.labels))
        _refuse_duplicates("prompt", (prompt for label in self.labels for prompt in label.prompts))
        object.__setattr__(self, "background", tuple(_word(w, "background word") for w in self.background))
        _refuse_duplicates("background word", self.background)
        for template in (self.cam_template, *self.classifier_templates):
            if template.count("{}") != 1:
                raise VocabularyError(f"template {template!r} must hold {{}} exactly once, where the word goes")

    @classmethod
    def from_words(
        cls,
        labels: Iterable[str | Mapping[str, Any] | Label],
        *,
        background: str | Sequence[str] = "shipped",
        mode: Mode = Mode.SEMANTIC,
    ) -> Self:
        """Return a vocabulary of words, or of {"name", "prompts"} mappings, with the templates of the mode's official
        configurations: fifteen for semantic segmentation, none for referring expressions.

        `background` is a list of words, or names of lists joined by +: shipped, terrestrial, aquatic-atmospheric,
        man-made, none.
        """
        return cls(
            labels=tuple(_label(one) for one in labels),
            background=background_words(background) if isinstance(background, str) else tuple(background),
            classifier_templates=CLASSIFIER_TEMPLATES if mode is Mode.SEMANTIC else (),
        )

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the vocabulary that `to_json` wrote."""
        return cls(
            labels=tuple(Label(one["name"], tuple(one["prompts"])) for one in document["labels"]),
            background=tuple(document["background"]),
            cam_template=document["cam_template"],
            classifier_templates=tuple(document["classifier_templates"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return every field as JSON values."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return] # tuples become lists

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @cached_property
    def digest(self) -> str:
        """The sha256 (hex) of words, templates and their order, which decides ties and the order of masks."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def check_tokens(self, tokenizer: ClipTokenizer) -> None:
        """Check that CLIP can read every text.

        Raises:
            VocabularyError: a text has more tokens than CLIP reads; the message names the word.

        """
        templates = {"{}", self.cam_template, *self.classifier_templates}
        longest = max(templates, key=tokenizer.count)
        for what, word in self._texts():
            # A word and a template share no tokens but at their seams, so most words need one count.
            if tokenizer.count(word) + tokenizer.count(longest) + _SEAM <= CONTEXT:
                continue
            count = max(tokenizer.count(template.format(word)) for template in templates)
            if count > CONTEXT:
                raise VocabularyError(
                    f"{what} {word[:40]!r}… has {count} tokens in its template, but CLIP reads {CONTEXT}: shorten it"
                )

    def _texts(self) -> Iterator[tuple[str, str]]:
        for label in self.labels:
            for prompt in label.prompts:
                yield ("label" if prompt == label.name else f"prompt of label {label.name!r}"), prompt
        yield from (("background word", word) for word in self.background)

    def subset(self, names: Iterable[str], background: tuple[str, ...]) -> Self:
        """Return the labels of these names in this vocabulary's order, with another background."""
        chosen = set(names)
        return replace(self, labels=tuple(v for v in self.labels if v.name in chosen), background=background)


def background_words(names: str) -> tuple[str, ...]:
    """Return the words of background lists joined by +, each word once."""
    words: dict[str, None] = {}
    for name in names.split("+"):
        if name.strip() not in BACKGROUNDS:
            raise VocabularyError(f"unknown background list {name.strip()!r}; known lists: {', '.join(BACKGROUNDS)}")
        words |= dict.fromkeys(BACKGROUNDS[name.strip()])
    return tuple(words)


def parse_labels(text: str) -> list[Label]:
    """Parse `a,b,c`. A label that contains a comma needs a labels file."""
    if not text.strip(" ,"):
        raise VocabularyError("no labels given")
    return [Label(part) for part in text.split(",")]


def parse_labels_file(text: str) -> list[Label]:
    """Parse a labels file: one label per line, or JSON {"name": …, "prompts": […]}. Blank lines and lines that begin
    with # are skipped.
    """
    labels = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip().removeprefix(_BOM)
        if not stripped or stripped.startswith("#"):
            continue
        try:
            labels.append(_label(json.loads(stripped)) if stripped.startswith("{") else Label(stripped))
        except json.JSONDecodeError as error:
            raise VocabularyError(f"line {number} of the labels file is not valid JSON: {error}") from None
        except VocabularyError as error:
            raise VocabularyError(f"line {number} of the labels file: {error}") from None
    return labels


def _label(value: "str | Mapping[str, Any] | Label") -> Label:
    if isinstance(value, Label):
        return value
    if isinstance(value, str):
        return Label(value)
    unknown = sorted(set(value) - {"name", "prompts"})
    name, prompts = value.get("name"), value.get("prompts", [])
    if unknown or not isinstance(name, str) or not isinstance(prompts, list):
        raise VocabularyError(
            f'label {dict(value)!r} must look like {{"name": "car", "prompts": ["car", "automobile"]}}'
        )
    return Label(name, tuple(prompts))


def _word(word: object, what: str) -> str:
    if not isinstance(word, str) or not word.strip():
        raise VocabularyError(f"{what} {word!r} is empty: give a word or a phrase")
    clean = " ".join(word.removeprefix(_BOM).split())
    if len(clean) > MAX_CHARACTERS:
        raise VocabularyError(
            f"{what} {clean[:40]!r}… has {len(clean)} characters, at most {MAX_CHARACTERS} are allowed"
        )
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in clean):
        raise VocabularyError(f"{what} {clean!r} contains a control character")
    if any(token in clean.lower() for token in SPECIAL_TOKENS):
        raise VocabularyError(f"{what} {clean!r} contains a special token of CLIP")
    if not clean_text(clean):
        raise VocabularyError(f"{what} {clean!r} is empty: give a word or a phrase")
    return clean


def _refuse_duplicates(what: str, words: Iterable[str]) -> None:
    """Refuse words that are equal to CLIP: their cleaned texts are equal, and so are their tokens."""
    seen: dict[str, str] = {}
    for word in words:
        text = clean_text(word)
        if text in seen:
            again = "" if seen[text] == word else f", also as {seen[text]!r}: CLIP reads both as {text!r}"
            raise VocabularyError(f"{what} {word!r} occurs twice{again}")
        seen[text] = word
