"""The S3 client takes from the user's AWS configuration what the service's own settings do not say."""

import pytest

from db.errors import SettingsInvalidError
from db.objects import StoreTimeouts, make_client
from db.settings import EngineSettings

SERVICE = {"DATABASE_URL": "postgresql://h/d", "CELERY_BROKER_URL": "redis://h", "S3_BUCKET": "labels"}


@pytest.fixture
def client_of(monkeypatch, tmp_path):
    """Make clients from AWS_* variables and a configuration file."""
    clients = []

    def make(config="", timeouts=None, **variables):
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        (tmp_path / "config").write_text(config)
        credentials = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
        paths = {"AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
        for name, value in (SERVICE | credentials | paths | variables).items():
            monkeypatch.setenv(name, value)
        clients.append(make_client(EngineSettings.from_environment(), timeouts=timeouts or StoreTimeouts()))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


PROFILE = "[profile work]\nregion = eu-north-1\n"


@pytest.mark.parametrize(
    ("variables", "region"),
    [
        ({}, "us-east-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-1"),
        ({"AWS_PROFILE": "work"}, "eu-north-1"),
        ({"AWS_PROFILE": "work", "AWS_REGION": "eu-west-3", "AWS_DEFAULT_REGION": "eu-west-1"}, "eu-west-3"),
    ],
)
def test_the_region_is_that_of_the_environment_or_of_the_profile(client_of, variables, region):
    assert client_of(PROFILE, **variables).meta.region_name == region


def test_the_endpoint_of_all_services_is_that_of_s3_unless_s3_has_its_own(client_of):
    assert client_of(AWS_ENDPOINT_URL="http://all:1").meta.endpoint_url == "http://all:1"
    both = {"AWS_ENDPOINT_URL": "http://all:1", "AWS_ENDPOINT_URL_S3": "http://s3:1"}
    assert client_of(**both).meta.endpoint_url == "http://s3:1"


def test_retries_checksums_and_addressing_of_the_profile_are_kept(client_of):
    lines = ["[default]", "retry_mode = adaptive", "max_attempts = 7", "request_checksum_calculation = when_supported"]
    config = client_of("\n".join([*lines, "s3 =", "  addressing_style = virtual", ""])).meta.config
    assert (config.retries["mode"], config.retries["total_max_attempts"]) == ("adaptive", 7)
    assert config.request_checksum_calculation == "when_supported"
    assert config.response_checksum_validation == "when_required"
    assert config.s3["addressing_style"] == "virtual"


def test_without_a_configuration_retries_are_few_and_checksums_are_left_out(client_of):
    config = client_of(AWS_ENDPOINT_URL_S3="http://s3:1").meta.config
    assert (config.retries["mode"], config.retries["total_max_attempts"]) == ("standard", 4)
    assert config.request_checksum_calculation == "when_required"
    assert config.s3["addressing_style"] == "path"


def test_the_bound_on_attempts_of_the_api_outranks_the_configuration(client_of):
    client = client_of(timeouts=StoreTimeouts(attempts=2), AWS_MAX_ATTEMPTS="9")
    assert client.meta.config.retries["total_max_attempts"] == 2


def test_a_profile_that_does_not_exist_is_named(client_of):
    with pytest.raises(SettingsInvalidError, match=r"nonesuch.*AWS_PROFILE"):
        client_of(PROFILE, AWS_PROFILE="nonesuch")
