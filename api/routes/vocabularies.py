"""/api/v1/vocabularies: the words of jobs, kept once, with names and versions."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Response
from sqlalchemy.orm import Session

from api.dependencies import CursorParam, Limit, SessionDep, Text
from api.schemas import LabelRequest, Page, VocabularyRequest, VocabularyView
from api.schemas.vocabularies import LabelView
from api.security import Reader, Writer
from car.recipe import Mode
from car.vocabulary import Label, Vocabulary
from db import vocabularies
from db.errors import NotFoundError
from db.vocabularies import StoredVocabulary

router = APIRouter(prefix="/vocabularies", tags=["vocabularies"])
_DIGITS = 9
"""Of a version; more are no number that a row could hold."""


@router.get("", summary="Vocabularies, newest first")
def page(session: SessionDep, _: Reader, cursor: CursorParam = None, limit: Limit = 50) -> Page[VocabularyView]:
    kept, after = vocabularies.page(session, cursor=cursor, limit=limit)
    return Page(items=[view(one) for one in kept], next=after)


@router.post("", status_code=201, summary="Keep a vocabulary")
def create(request: VocabularyRequest, session: SessionDep, _: Writer, response: Response) -> VocabularyView:
    """Equal vocabularies are one. With a name, it becomes the name's next version, unless it is the last."""
    words = vocabulary_of(request.labels, request.background, request.mode)
    kept = vocabularies.get_or_create(session, words)
    found = vocabularies.get(session, kept)
    if request.name is not None:
        found = vocabularies.find(session, request.name, vocabularies.name(session, kept, request.name))
    response.headers["Location"] = f"/api/v1/vocabularies/{found.id}"
    return view(found)


@router.get("/{reference}", summary="One vocabulary, by id, name or name@version")
def get(reference: Annotated[Text, Path(max_length=200)], session: SessionDep, _: Reader) -> VocabularyView:
    return view(find(session, reference))


def find(session: Session, reference: str) -> StoredVocabulary:
    """By id, by name (its newest version) or by name@version.

    Raises:
        NotFoundError: no such vocabulary.

    """
    try:
        return vocabularies.get(session, UUID(reference))
    except ValueError:
        name, at, version = reference.rpartition("@")
    if not at:
        return vocabularies.find(session, reference)
    if not version.isascii() or not version.isdecimal() or len(version) > _DIGITS:
        raise NotFoundError(f"there is no vocabulary {reference!r}; a version is a number, such as {name}@1")
    return vocabularies.find(session, name, int(version))


def vocabulary_of(labels: list[str | LabelRequest], background: str | list[str], mode: Mode) -> Vocabulary:
    """Raises: VocabularyError."""
    words = [one if isinstance(one, str) else Label(one.name, tuple(one.prompts)) for one in labels]
    return Vocabulary.of(words, background=background, mode=mode)


def view(kept: StoredVocabulary) -> VocabularyView:
    words = kept.vocabulary
    return VocabularyView(
        id=kept.id,
        digest=kept.digest,
        name=kept.name,
        version=kept.version,
        labels=[LabelView(name=label.name, prompts=list(label.prompts)) for label in words.labels],
        background=list(words.background),
        created_at=kept.created_at,
    )
