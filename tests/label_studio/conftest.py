"""A real Label Studio and our whole service, each started once. `make test-label-studio` runs what is here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cli.embedded import start_engines
from tests.label_studio.browser import chromium, logged_in
from tests.label_studio.server import Server, label_studio, program
from tests.label_studio.service import Service, last_log_lines, service
from tests.label_studio.user import User
from tests.support.picture_server import ImageServer
from tests.support.services import Bucket, client_of

HERE = Path(__file__).parent


def pytest_addoption(parser):
    parser.addoption("--write-images", action="store_true", help="write the screenshots of docs/images anew")
    parser.addoption("--write-requests", action="store_true", help="write tests/contract/recorded/smart anew")


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.label_studio)


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Server]:
    if not program().exists():
        pytest.skip(f"there is no Label Studio at {program()}: `make test-label-studio` installs it")
    with label_studio(tmp_path_factory.mktemp("label-studio")) as started:
        yield started


@pytest.fixture(scope="session")
def user(server) -> Iterator[User]:
    opened = User(server.url, server.token)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def web() -> Iterator[ImageServer]:
    """A web server; `pages` are put into it."""
    with ImageServer() as started:
        yield started


@dataclass(frozen=True)
class ForeignS3:
    """A bucket on an S3 server that knows no key of ours."""

    environment: Mapping[str, str]
    bucket: Bucket

    @property
    def name(self) -> str:
        return self.bucket.name

    def put(self, key: str, content: bytes) -> None:
        self.bucket.put(key, content)


@pytest.fixture(scope="session")
def foreign_s3(tmp_path_factory) -> Iterator[ForeignS3]:
    with start_engines(tmp_path_factory.mktemp("foreign"), durable=False, which=("s3",)) as started:
        yield ForeignS3(started.environment, _bucket(started.environment, "annotators"))


@pytest.fixture(scope="session")
def labeler(server, web, foreign_s3, tmp_path_factory) -> Iterator[Service]:
    """It writes back with a personal access token, as a new Label Studio gives them."""
    folder = tmp_path_factory.mktemp("car")
    hosts = f"{web.host_port},{urlsplit(foreign_s3.environment['AWS_ENDPOINT_URL_S3']).netloc}"
    with service(
        folder,
        LABEL_STUDIO_URL=server.url,
        LABEL_STUDIO_API_KEY=server.personal_token(),
        CAR_ALLOWED_HOSTS=hosts,
    ) as started:
        yield started


@pytest.fixture(scope="session")
def own_bucket(labeler) -> Bucket:
    """On the S3 server of the service."""
    return _bucket(labeler.environment, "pictures")


def _bucket(environment: Mapping[str, str], name: str) -> Bucket:
    client = client_of(environment)
    client.create_bucket(Bucket=name)
    return Bucket(name, client)


@pytest.fixture(autouse=True)
def _say_what_the_service_said(request):
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed > failed_before and "labeler" in request.fixturenames:
        print(last_log_lines(request.getfixturevalue("labeler").up.data_dir))  # noqa: T201


@pytest.fixture(scope="module")
def page(server):
    """A browser in which the server's user is logged in."""
    if chromium() is None:
        pytest.skip("there is no Chromium: `apt-get install -y chromium`, or name one in CHROMIUM")
    with logged_in(server) as opened:
        yield opened
