"""Alembic revisions; `db.schema` runs them."""
