"""`car keys` on a real database."""

import pytest
from typer.testing import CliRunner

from cli.main import app
from db import api_keys
from db.session import make_engine, transaction


@pytest.fixture
def car(database_url, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *arguments: CliRunner().invoke(app, ["keys", *arguments])


@pytest.fixture
def check(database_url):
    """A function that tells whether a key is valid for a scope."""
    engine = make_engine(database_url)

    def is_valid(secret, scope):
        try:
            with transaction(engine) as session:
                api_keys.check(session, secret, scope)
        except api_keys.KeyRefusedError:
            return False
        return True

    yield is_valid
    engine.dispose()


def test_a_new_key_is_alone_on_stdout_and_opens_what_its_scope_holds(car, check):
    made = car("create", "nightly import", "--scope", "write")
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    assert made.stdout == secret + "\n"
    assert secret.startswith("car_")
    assert "'nightly import'" in made.stderr
    assert secret not in made.stderr
    assert [check(secret, scope) for scope in api_keys.Scope] == [True, True, False]


def test_the_list_shows_keys_without_their_secrets(car):
    secret = car("create", "reader", "--expires", "90d").stdout.strip()
    listed = car("list")
    assert listed.exit_code == 0
    assert "reader" in listed.stdout
    assert secret[:12] in listed.stdout
    assert secret not in listed.stdout


@pytest.mark.parametrize("by", ["id", "what the key begins with", "the key itself"])
def test_a_revoked_key_opens_nothing(car, check, by):
    secret = car("create", "reader").stdout.strip()
    named = {"id": car("list").stdout.splitlines()[1].split()[0], "the key itself": secret}.get(by, secret[:12])
    assert check(secret, api_keys.Scope.READ)
    revoked = car("revoke", named)
    assert revoked.exit_code == 0, revoked.output
    assert not check(secret, api_keys.Scope.READ)
    assert "revoked" in car("list").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create", "x", "--expires", "soon"], "12h, 90d or 8w"),
        (["create", "x", "--scope", "root"], "read"),
        (["revoke", "nothing"], "no key with the id or prefix"),
        (["revoke", "01900000-0000-7000-8000-000000000000"], "there is no API key"),
    ],
)
def test_wrong_usage_is_reported_with_exit_code_2(car, arguments, message):
    result = car(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_an_unreachable_database_is_reported(car, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://car:x@127.0.0.1:9/car")
    result = car("list")
    assert result.exit_code == 2
    assert "PostgreSQL at 127.0.0.1:9/car does not answer" in result.stderr


def test_without_a_database_the_error_names_both_ways_to_get_one(car, monkeypatch, tmp_path):
    monkeypatch.delenv("DATABASE_URL")
    result = car("list", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert "car up" in result.stderr
    assert "DATABASE_URL" in result.stderr
