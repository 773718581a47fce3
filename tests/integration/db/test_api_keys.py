"""API keys open what their scopes say, until they expire or are revoked; nobody can read them again."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import api_keys
from db.api_keys import KeyRefusedError, Scope
from db.errors import NotFoundError


def test_a_key_is_shown_once_and_only_its_digest_is_kept(rows):
    key, secret = rows.do(api_keys.create, "laptop", [Scope.READ])
    assert len(secret) >= 40
    assert rows.do(api_keys.check, secret, Scope.READ).id == key.id
    [row] = rows.sql("SELECT * FROM api_key")
    assert secret not in str(tuple(row))
    assert secret.startswith(row.prefix)
    assert len(secret) - len(row.prefix) >= 30  # what is shown of it opens nothing
    with pytest.raises(KeyRefusedError):
        rows.do(api_keys.check, row.prefix, Scope.READ)


@pytest.mark.parametrize(
    ("scopes", "opens"),
    [
        ([Scope.READ], {Scope.READ}),
        ([Scope.WRITE], {Scope.READ, Scope.WRITE}),
        ([Scope.ADMIN], {Scope.READ, Scope.WRITE, Scope.ADMIN}),
        ([Scope.WRITE, Scope.READ, Scope.READ], {Scope.READ, Scope.WRITE}),
        ([], set()),
    ],
    ids=lambda value: "+".join(sorted(value)) or "none",
)
def test_each_scope_holds_those_before_it(rows, scopes, opens):
    key, secret = rows.do(api_keys.create, "k", scopes)
    assert api_keys.granted(key) == opens
    for scope in Scope:
        if scope in opens:
            assert rows.do(api_keys.check, secret, scope).id == key.id
        else:
            with pytest.raises(KeyRefusedError, match=f"lacks the scope {scope}"):
                rows.do(api_keys.check, secret, scope)


def test_a_revoked_or_expired_key_opens_nothing_and_says_why(rows):
    key, secret = rows.do(api_keys.create, "k", [Scope.ADMIN])
    first = rows.do(api_keys.revoke, key.id).revoked_at
    assert rows.do(api_keys.revoke, key.id).revoked_at == first
    with pytest.raises(KeyRefusedError, match="revoked"):
        rows.do(api_keys.check, secret, Scope.READ)
    past = datetime.now(UTC) - timedelta(seconds=1)
    _, secret = rows.do(api_keys.create, "k", [Scope.ADMIN], expires_at=past)
    with pytest.raises(KeyRefusedError, match="expired"):
        rows.do(api_keys.check, secret, Scope.READ)
    _, secret = rows.do(api_keys.create, "k", [Scope.ADMIN], expires_at=past + timedelta(hours=1))
    assert rows.do(api_keys.check, secret, Scope.READ)
    with pytest.raises(NotFoundError):
        rows.do(api_keys.revoke, rows.result())


def test_a_wrong_key_learns_nothing_of_the_right_one(rows):
    key, secret = rows.do(api_keys.create, "k", [Scope.READ])
    rows.do(api_keys.revoke, key.id)
    for wrong in (secret[:-1], secret + "x", secret[:12] + "x" * 31, "", "car_", secret.upper()):
        with pytest.raises(KeyRefusedError) as refused:
            rows.do(api_keys.check, wrong, Scope.READ)
        assert str(refused.value) == "this API key is unknown; create one with `car keys create`"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(word=st.one_of(st.text(), st.text(st.characters(categories=["Cs", "Cc", "L"]))))
def test_whatever_is_sent_as_a_key_is_refused_in_words(rows, word):
    with pytest.raises(KeyRefusedError):
        rows.do(api_keys.check, word, Scope.READ)


def test_the_last_use_is_noted_once_a_minute(rows):
    _, secret = rows.do(api_keys.create, "k", [Scope.READ])
    rows.do(api_keys.check, secret, Scope.READ)
    [first] = rows.sql("SELECT last_used_at FROM api_key")
    assert first.last_used_at is not None
    rows.do(api_keys.check, secret, Scope.READ)
    assert rows.sql("SELECT last_used_at FROM api_key") == [first]
    rows.sql("UPDATE api_key SET last_used_at = now() - interval '61 s'")
    rows.do(api_keys.check, secret, Scope.READ)
    assert rows.sql("SELECT last_used_at FROM api_key")[0].last_used_at >= first.last_used_at


def test_keys_are_listed_newest_first(rows):
    made = [rows.do(api_keys.create, name, [Scope.READ])[0].id for name in ("one", "two")]
    assert [key.id for key in rows.do(api_keys.list_all)] == made[::-1]
