"""COPY goes past SQLAlchemy, and its errors must not."""

import pytest
from sqlalchemy import text
from uuid_utils.compat import uuid7

from db.bulk_insert import copy_rows
from db.errors import DatabaseUnreachableError
from db.models import Mask
from db.session import make_engine, transaction


def test_a_connection_that_breaks_before_a_copy_is_an_unreachable_database_and_the_next_one_works(database_url):
    engine = make_engine(database_url, pool=2)
    try:
        with pytest.raises(DatabaseUnreachableError), transaction(engine) as session:  # noqa: PT012
            number = session.scalar(text("SELECT pg_backend_pid()"))
            with transaction(engine) as other:
                other.execute(text("SELECT pg_terminate_backend(:number, 5000)"), {"number": number})
            copy_rows(session, Mask, ("result_id", "position", "label"), [(uuid7(), 1, "cat")])
        with transaction(engine) as session:
            assert session.scalar(text("SELECT count(*) FROM mask")) == 0
    finally:
        engine.dispose()
