"""Settings are read under the names people know; what is missing or wrong is named, and never shown."""

import pytest

from db.errors import SettingsInvalidError
from db.session import make_engine
from db.settings import EngineSettings

GOOD = {
    "DATABASE_URL": "postgresql://car:pass-word-1@host:5432/car",
    "CELERY_BROKER_URL": "redis://:pass-word-2@host:6379/0",
    "S3_BUCKET": "labels",
}
ALL = [field.alias for field in EngineSettings.model_fields.values()]


@pytest.fixture
def environment(monkeypatch):
    """The environment of a process that has nothing but these."""

    def be(**values):
        for name in ALL:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return be


def refusal(environment, **values):
    environment(**values)
    with pytest.raises(SettingsInvalidError) as refused:
        EngineSettings.from_environment()
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__
    return str(refused.value)


def test_three_variables_are_enough(environment):
    environment(**GOOD)
    settings = EngineSettings.from_environment()
    assert (settings.s3_prefix, settings.aws_region, settings.log_level) == ("car/", None, "INFO")
    assert settings.aws_endpoint_url_s3 is None
    assert "pass-word" not in repr(settings) + str(settings.model_dump())


def test_everything_that_is_missing_is_named_at_once(environment):
    message = refusal(environment)
    assert all(f"{name}: field required" in message for name in GOOD)


@pytest.mark.parametrize("name", GOOD)
def test_each_variable_that_is_missing_is_named_alone(environment, name):
    message = refusal(environment, **{other: value for other, value in GOOD.items() if other != name})
    assert message == f"the environment is incomplete or wrong: {name}: field required"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE_URL", "mysql://car:hidden-9@host/car", "postgresql://"),
        ("DATABASE_URL", "hidden-9", "postgresql://"),
        ("DATABASE_URL", "", "postgresql://"),
        ("CELERY_BROKER_URL", "amqp://car:hidden-9@host", "redis://"),
        ("S3_BUCKET", "", "at least 3"),
        ("S3_PREFIX", "hidden-9 with spaces/", "pattern"),
        ("AWS_ENDPOINT_URL_S3", "hidden-9:8333", "http:// or https://"),
        ("CAR_S3_PUBLIC_ENDPOINT", "hidden-9", "http:// or https://"),
        ("CAR_S3_ADDRESSING", "hidden-9", "'auto', 'path' or 'virtual'"),
        ("CAR_DATABASE_POOL", "hidden-9", "integer"),
        ("CAR_DATABASE_POOL", "0", "greater than or equal to 1"),
        ("LOG_LEVEL", "hidden-9", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
    ],
)
def test_a_wrong_variable_is_named_with_what_it_may_be_and_its_value_is_not_shown(environment, name, value, expected):
    message = refusal(environment, **GOOD | {name: value})
    assert message.startswith(f"the environment is incomplete or wrong: {name}: ")
    assert expected in message
    assert "hidden-9" not in message


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_of_the_credentials_are_none(environment, name):
    message = refusal(environment, **GOOD | {name: "hidden-9"})
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY go together" in message
    assert "hidden-9" not in message


def test_an_empty_variable_of_compose_is_an_unset_one(environment):
    empty = ("AWS_ENDPOINT_URL_S3", "CAR_S3_PUBLIC_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    environment(**GOOD, **dict.fromkeys(empty, ""), LOG_LEVEL="debug")
    settings = EngineSettings.from_environment()
    assert settings.aws_endpoint_url_s3 is settings.aws_access_key_id is settings.aws_secret_access_key is None
    assert settings.log_level == "DEBUG"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_way_to_write_postgresql_is_taken(environment, scheme):
    url = f"{scheme}://car:word@host:6543/car"
    environment(**GOOD | {"DATABASE_URL": url})
    engine = make_engine(EngineSettings.from_environment().database_url.get_secret_value())
    assert engine.url.render_as_string(hide_password=False) == "postgresql+psycopg://car:word@host:6543/car"
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://u:hidden-9@h/d", "hidden-9", "", "postgresql://u:hidden-9@h:port/d"])
def test_an_address_of_another_database_is_refused_without_showing_it(url):
    with pytest.raises(SettingsInvalidError, match="DATABASE_URL") as refused:
        make_engine(url)
    assert "hidden-9" not in str(refused.value)
    assert refused.value.__context__ is None or refused.value.__suppress_context__
