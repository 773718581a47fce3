"""Alembic's entry: run by db.schema.migrate with a connection, or by `alembic` with DATABASE_URL."""

import os

from alembic import context
from sqlalchemy import Connection

from db.models import Base
from db.session import make_engine


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


connection = context.config.attributes.get("connection")
if connection is not None:
    _run(connection)
else:
    engine = make_engine(os.environ["DATABASE_URL"], statement_ms=0)
    with engine.connect() as own_connection:
        _run(own_connection)
    engine.dispose()
