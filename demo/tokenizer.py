"""A small byte-pair tokenizer in CLIP's file format, so that the embedding table stays small.

Words of the shapes world and of CaR's templates are one token; any other text is encoded as bytes.
"""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from car.clip_tokenizer import CONTEXT, END, START, WORD_END, byte_alphabet


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return byte pairs to join, most frequent first, until every word of lower-case ASCII letters is one token."""
    split = {word: (*word[:-1], word[-1] + WORD_END) for word in sorted(set(words))}
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in split.values()):
        pairs = Counter(pair for parts in split.values() for pair in pairwise(parts))
        best = max(sorted(pairs), key=pairs.__getitem__)
        merges.append(best)
        split = {word: _joined(parts, best) for word, parts in split.items()}
    return merges


def _joined(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def write_tokenizer(folder: Path, words: Iterable[str]) -> int:
    """Write vocab.json, merges.txt and tokenizer_config.json; return the size of the vocabulary.

    `<|endoftext|>` has the largest id: CLIP pools the text at it.
    """
    merges = learn_merges(words)
    letters = byte_alphabet()
    tokens = [*letters, *(letter + WORD_END for letter in letters), *(a + b for a, b in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return len(tokens)
