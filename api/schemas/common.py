"""Types and models that all parts of the API share."""

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

Entry = TypeVar("Entry")


def storable(text: str) -> str:
    """Refuse text that PostgreSQL cannot store."""
    if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("holds a NUL or half a surrogate pair")
    return text


Text = Annotated[str, AfterValidator(storable)]


def to_future_utc(moment: datetime) -> datetime:
    """Return the moment in UTC.

    Raises:
        ValueError: it is in the past, or its UTC time is outside of the years 1 to 9999.

    """
    try:
        converted = moment.astimezone(UTC)
    except (OverflowError, ValueError):
        raise ValueError("in UTC it is outside of the years 1 to 9999") from None
    if converted <= datetime.now(UTC):
        raise ValueError("it is in the past")
    return converted


FutureUtc = Annotated[AwareDatetime, AfterValidator(to_future_utc)]
"""A future time with its offset from UTC; stored and shown in UTC."""


class RequestModel(BaseModel):
    """A request body. Unknown fields are refused: they are probably misspelled."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ResponseModel(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Page(ResponseModel, Generic[Entry]):
    """One page of a list."""

    items: list[Entry]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class FieldProblem(ResponseModel):
    field: str
    problem: str


class Problem(ResponseModel):
    """application/problem+json (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str = Field(
        description="what is wrong, and what to do", examples=["unknown preset 'vok'; known presets: …"]
    )
    code: str = Field(description="stable; for programs", examples=["recipe_invalid"])
    errors: list[FieldProblem] | None = Field(default=None, description="one entry per invalid field")


class ConfigProblem(ResponseModel):
    """A part of a labeling configuration that cannot be mapped."""

    code: str
    detail: str


class LivenessResponse(ResponseModel):
    status: Literal["ok"]


class ReadinessResponse(ResponseModel):
    status: Literal["ready"]
    checks: dict[str, str] = Field(examples=[{"database": "ok", "schema": "ok", "broker": "ok", "objects": "ok"}])
