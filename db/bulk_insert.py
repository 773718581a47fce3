"""Bulk inserts with COPY, which takes a fifth of the time of INSERT and a tenth of this process's CPU time."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.orm import Session

from db.models import Base


def copy_rows(session: Session, model: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert rows of `columns` into the model's table, in this session's transaction. A conflict is an error."""
    table = model.__table__
    names = ", ".join(f'"{name}"' for name in columns)
    types = [table.c[name].type.compile(dialect()).lower() for name in columns]  # type: ignore[no-untyped-call]
    with (
        closing(session.connection().connection.cursor()) as cursor,
        cursor.copy(f'COPY "{table}" ({names}) FROM STDIN (FORMAT BINARY)') as copy,
    ):
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)
