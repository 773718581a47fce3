"""Alembic's entry: run by db.schema.migrate with a connection, or by `alembic` with DATABASE_URL."""

from alembic import context
from sqlalchemy import Connection, create_engine

from db.models import Base
from db.settings import database_url_alone


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


given = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    engine = create_engine(database_url_alone())
    with engine.connect() as made:
        _run(made)
    engine.dispose()
