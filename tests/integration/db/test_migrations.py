"""The tables come from migrations alone, up and down, on any database; nobody trips over a lock."""

import ast
import re
import time
from io import StringIO

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from db import schema
from db.errors import DatabaseBusyError, DatabaseUnreachableError, SchemaOutdatedError
from db.models import Base
from db.results import store as result_store
from db.schema import RETIRED, MigrationBlockedError, current, head, migrate, require_current
from db.session import make_engine, transaction
from tests.support.paths import ROOT
from tests.support.rows import LEASE, Rows, together

VERSIONS = sorted((ROOT / "migrations" / "versions").glob("[!_]*.py"))


@pytest.fixture
def empty(empty_database_url):
    engine = make_engine(empty_database_url)
    yield engine
    engine.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def downgrade(engine, revision):
    return schema._move(engine, lambda config: command.downgrade(config, revision))


def fill(engine):
    """Some rows in every table that other parts write."""
    rows = Rows(engine)
    job = rows.job()
    rows.items(job, 3)
    rows.result()
    rows.do(result_store.reserve, "w", ["key"], LEASE)


def test_up_down_and_up_again_on_an_empty_database(empty):
    assert migrate(empty) == (None, head())
    assert tables(empty) == set(Base.metadata.tables)
    assert downgrade(empty, "base") == (head(), None)
    assert tables(empty) == set()
    assert migrate(empty) == (None, head())
    assert migrate(empty) == (head(), head())
    assert tables(empty) == set(Base.metadata.tables)


def test_up_down_and_up_again_on_a_filled_database(empty):
    migrate(empty)
    fill(empty)
    for revision in [entry.revision for entry in scripts().walk_revisions()][1:]:
        downgrade(empty, revision)
    downgrade(empty, "base")
    migrate(empty)
    fill(empty)
    assert Rows(empty).sql("SELECT count(*) FROM item") == [(3,)]


def scripts():
    return ScriptDirectory(str(ROOT / "migrations"))


def test_there_is_one_head():
    assert scripts().get_heads() == [head()]


def test_the_models_are_what_the_migrations_make(rows):
    with rows.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_alembic_check_finds_nothing_to_do(database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    message = StringIO()
    command.check(Config(str(ROOT / "alembic.ini"), stdout=message))
    assert "No new upgrade operations" in message.getvalue()


def test_constraints_and_indexes_are_named_by_convention(rows):
    named = "SELECT conrelid::regclass::text AS of, conname AS name FROM pg_constraint WHERE contype IN ({})"
    of = (
        named.format("'p', 'u', 'f', 'c'")
        + " AND connamespace = 'public'::regnamespace AND conname NOT LIKE 'alembic%'"
    )
    ends = re.compile(r"_(pkey|key|fkey|check)$")
    constraints = rows.sql(of)
    assert len(constraints) > 20
    unusual = [entry for entry in constraints if not (entry.name.startswith(entry.of) and ends.search(entry.name))]
    assert unusual == []
    indexes = rows.sql(
        "SELECT tablename AS of, indexname AS name FROM pg_indexes WHERE schemaname = 'public' "
        "AND indexname NOT IN (SELECT conname FROM pg_constraint)"
    )
    assert [entry.name for entry in indexes if not re.fullmatch(rf"{entry.of}_\w+_idx", entry.name)] == []


@pytest.mark.parametrize("file", VERSIONS, ids=lambda file: file.stem)
def test_every_migration_is_dated_and_gives_up_on_a_lock_after_a_moment(file):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-\d{4}_\w+", file.stem)
    assert waits_shortly(file.read_text())


def test_the_template_gives_up_on_a_lock_after_a_moment():
    template = (ROOT / "migrations" / "script.py.mako").read_text()
    filled = re.sub(r"\$\{(up|down)grades.*\}", "pass", template)
    filled = re.sub(r"^\$\{imports.*\}$", "", filled, flags=re.MULTILINE)
    assert waits_shortly(re.sub(r"\$\{repr\(.*\)\}", "None", filled))


def waits_shortly(source):
    """Whether lock_timeout is the first thing that both directions set."""
    functions = {entry.name: entry for entry in ast.parse(source).body if isinstance(entry, ast.FunctionDef)}
    first = [ast.unparse(functions[name].body[0]) for name in ("upgrade", "downgrade")]
    return all("SET LOCAL lock_timeout" in line for line in first)


def test_processes_that_migrate_at_once_take_turns(empty_database_url):
    engines = [make_engine(empty_database_url, pool=1) for _ in range(4)]
    moves = together(*(lambda engine=engine: migrate(engine) for engine in engines))
    assert sorted(moves, key=str) == sorted([(None, head()), *[(head(), head())] * 3], key=str)
    require_current(engines[0])
    for engine in engines:
        engine.dispose()


def test_a_table_in_use_blocks_a_migration_for_a_moment_and_changes_nothing(empty):
    migrate(empty)
    begun = time.monotonic()
    with empty.connect() as other:
        other.execute(text("SELECT * FROM weights_card"))  # which the newest migration made
        with pytest.raises(MigrationBlockedError, match="try again") as blocked:
            downgrade(empty, "base")
        other.rollback()
    assert blocked.value.retryable
    assert time.monotonic() - begun < 10
    assert current(empty) == head()
    assert tables(empty) == set(Base.metadata.tables)
    downgrade(empty, "base")


def test_a_migration_has_time_and_leaves_the_limit_of_others_as_it_is(empty_database_url, monkeypatch):
    engine = make_engine(empty_database_url, pool=1, statement_ms=200)
    seen = []

    def slow_upgrade(config, revision):
        seen.append(revision)
        config.attributes["connection"].execute(text("SELECT pg_sleep(0.4)"))

    monkeypatch.setattr(schema.command, "upgrade", slow_upgrade)
    migrate(engine)
    assert seen == ["head"]
    with pytest.raises(DatabaseBusyError, match="took too long"), transaction(engine) as session:
        session.execute(text("SELECT pg_sleep(2)"))
    engine.dispose()


def test_a_database_of_another_version_is_refused_with_what_to_do(empty):
    with pytest.raises(
        SchemaOutdatedError, match=f"at revision none and this version needs {head()}; run `car migrate`"
    ):
        require_current(empty)
    with pytest.raises(SchemaOutdatedError, match="car migrate"), transaction(empty) as session:
        session.execute(text("SELECT * FROM item"))
    migrate(empty)
    require_current(empty)
    with transaction(empty) as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'ffffffffffff'"))
    with pytest.raises(SchemaOutdatedError, match="revision ffffffffffff"):
        require_current(empty)


@pytest.mark.parametrize("revision", sorted(RETIRED))
def test_a_database_of_before_the_first_release_is_refused_with_what_to_delete_and_keep(empty, revision):
    migrate(empty)
    with transaction(empty) as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    for refuse in (require_current, migrate):
        with pytest.raises(
            SchemaOutdatedError, match=rf"{revision}.*delete this database.*keep the bucket.*car migrate"
        ):
            refuse(empty)
    assert current(empty) == revision


def test_errors_of_the_connection_say_what_to_change(database_url):
    def refused(url):
        engine = make_engine(url)
        with pytest.raises(DatabaseUnreachableError) as actual, transaction(engine) as session:
            session.execute(text("SELECT 1"))
        engine.dispose()
        assert actual.value.retryable
        return str(actual.value)

    user, _, after_user = database_url.removeprefix("postgresql://").partition(":")
    password, _, location = after_user.partition("@")
    wrong = refused(f"postgresql://{user}:not-the-password@{location}")
    assert re.search(r"password authentication failed.*check the name and password in DATABASE_URL", wrong)
    assert "not-the-password" not in wrong
    server = location.partition("/")[0]
    missing = refused(f"postgresql://{user}:{password}@{server}/no_such_database")
    assert re.search(r'"no_such_database" does not exist.*check the database', missing)
    assert password not in missing
    away = refused(f"postgresql://{user}:{password}@127.0.0.1:1/x")
    assert re.search(r"127.0.0.1:1/x does not answer \(.*refused\); check DATABASE_URL and whether it is running", away)
    assert password not in away


def test_a_process_without_a_free_connection_says_which_setting_to_raise(database_url, monkeypatch):
    engine = make_engine(database_url, pool=1)
    monkeypatch.setattr(engine.pool, "_timeout", 0.1)
    with transaction(engine) as session:
        session.execute(text("SELECT 1"))
        with pytest.raises(DatabaseBusyError, match="CAR_DATABASE_POOL"), transaction(engine) as other:
            other.execute(text("SELECT 1"))
    engine.dispose()


def test_every_connection_has_a_limit_of_time_and_counts_in_utc(rows):
    assert rows.sql("SHOW statement_timeout") == [("1min",)]
    assert rows.sql("SHOW timezone") == [("UTC",)]
