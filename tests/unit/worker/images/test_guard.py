"""The SSRF guard: hostile addresses reach no private host, which is observed at the level of sockets."""

import socket
import threading

import httpcore
import pytest

from db.errors import SettingsInvalidError
from tests.support.hostile_addresses import HOSTILE
from tests.support.network import connects_watched
from tests.support.picture_server import ImageServer, redirect
from worker.errors import FetchError, SourceForbiddenError, SourceUnreachableError
from worker.images.addresses import Url
from worker.images.fetch import ImageFetcher
from worker.images.ssrf_guard import AllowedHosts, SsrfGuard

PUBLIC = "93.184.215.14"


class Names:
    """A fake name server with a sequence of answers per name; the last answer is repeated."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): list(sequence) for name, sequence in answers.items()}
        self.queries = []

    def __call__(self, host, port):
        self.queries.append(host)
        sequence = self.answers.get(host)
        if sequence is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return sequence.pop(0) if len(sequence) > 1 else sequence[0]


class Wire(httpcore.NetworkBackend):
    """A network that records connections; it refuses them, or leads them to a local port."""

    def __init__(self, leads_to=None):
        self.connects, self.leads_to = [], leads_to

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        self.connects.append((host, port))
        if self.leads_to is None:
            raise httpcore.ConnectError("refused")
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.leads_to, timeout)


class Canary:
    """A private server that must see no client."""

    def __init__(self):
        self.seen = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._last_client = None

    @property
    def port(self):
        return self._socket.getsockname()[1]

    def _accept(self):
        while True:
            caller, name = self._socket.accept()
            caller.close()
            if name == self._last_client:
                return
            self.seen.append(name)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket() as last:  # the server accepts earlier clients first
            last.bind(("127.0.0.1", 0))
            self._last_client = last.getsockname()
            last.connect(("127.0.0.1", self.port))
            self._thread.join()
        self._socket.close()


class NoObjects:
    def read(self, bucket, key, *, max_bytes=None):
        raise AssertionError((bucket, key))


PRIVATE_NAMES = {
    "localhost": [["127.0.0.1", "::1"]],
    "inner.example": [["127.0.0.1"]],
    "half-inner.example": [[PUBLIC, "127.0.0.1"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "public.example": [[PUBLIC]],
}


def private_names():
    names = Names()
    names.answers = {name: list(answers) for name, answers in PRIVATE_NAMES.items()}
    return names


@pytest.fixture(scope="module")
def guarded():
    """A fetcher that may connect to no private host."""
    fetcher = ImageFetcher(NoObjects(), resolve=private_names())
    yield fetcher
    fetcher.close()


@pytest.fixture(scope="module")
def redirecting():
    """A server that is allowed, and Sources that may ask it and nobody else within."""
    with ImageServer() as server:
        fetcher = ImageFetcher(NoObjects(), allowed={"CAR_ALLOWED_HOSTS": server.host_port}, resolve=private_names())
        yield server, fetcher
        fetcher.close()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_address_reaches_no_host(text, guarded):
    with Canary() as canary:
        with connects_watched() as connects, pytest.raises(SourceForbiddenError) as refused:
            guarded.read(text.replace("{port}", str(canary.port)))
        assert connects == []
    assert canary.seen == []
    assert str(refused.value).isprintable()


def test_the_hostile_addresses_are_many_and_distinct():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 60


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_redirect_reaches_no_host(text, redirecting):
    site, fetcher = redirecting
    with Canary() as canary:
        location = text.replace("{port}", str(canary.port)).replace("\r", "").replace("\n", "")
        site.pages = {"/a": redirect("/b"), "/b": redirect(location.encode().decode("latin-1"), 307)}
        with connects_watched() as connects, pytest.raises(FetchError):
            fetcher.read(f"{site.url}/a")
        # Relative and empty locations stay with the redirecting server, which is allowed.
        assert {address[:2] for address in connects} <= {("127.0.0.1", site.port)}
    assert canary.seen == []


def test_a_chain_of_redirects_into_this_machine_is_refused(site):
    with Canary() as canary:
        site.pages |= {"/1": redirect("/2", 301), "/2": redirect("/3", 303)}
        site.pages["/3"] = redirect(f"http://127.0.0.1:{canary.port}/", 308)
        fetcher = ImageFetcher(NoObjects(), allowed={"CAR_ALLOWED_HOSTS": site.host_port})
        with pytest.raises(SourceForbiddenError, match=rf"CAR_ALLOWED_HOSTS=127.0.0.1:{canary.port}"):
            fetcher.read(f"{site.url}/1")
        fetcher.close()
    assert site.paths == ["/1", "/2", "/3"]
    assert canary.seen == []


def test_more_than_three_redirects_are_not_followed(site):
    site.pages |= {f"/{n}": redirect(f"/{n + 1}") for n in range(9)}
    fetcher = ImageFetcher(NoObjects(), allowed={"CAR_ALLOWED_HOSTS": site.host_port})
    with pytest.raises(SourceForbiddenError, match="more than 3"):
        fetcher.read(f"{site.url}/0")
    fetcher.close()
    assert site.paths == ["/0", "/1", "/2", "/3"]


def test_the_connection_goes_to_the_checked_address_although_the_name_rebinds():
    names, wire = Names(rebinding_example=[[PUBLIC], ["127.0.0.1"]]), Wire()
    guard = SsrfGuard(AllowedHosts({}), resolve=names, network=wire)
    with pytest.raises(httpcore.ConnectError):
        guard.connect_tcp("rebinding.example", 80)
    assert wire.connects == [(PUBLIC, 80)]
    assert names.queries == ["rebinding.example"]
    with connects_watched() as connects, pytest.raises(SourceForbiddenError):
        guard.connect_tcp("rebinding.example", 80)
    assert wire.connects == [(PUBLIC, 80)]
    assert connects == []


def test_a_name_that_rebinds_between_a_redirect_and_its_target_is_checked_again():
    """The first connection goes out, closes, and the second one of the same name would go within."""
    with ImageServer() as server, Canary() as canary:
        server.pages["/a"] = (
            302,
            {"Location": f"http://rebinding.example:{canary.port}/b", "Connection": "close"},
            b"",
        )
        names, wire = Names(rebinding_example=[[PUBLIC], ["127.0.0.1"]]), Wire(leads_to=server.port)
        fetcher = ImageFetcher(NoObjects())
        fetcher._downloader._pool._network_backend = SsrfGuard(AllowedHosts({}), resolve=names, network=wire)
        with pytest.raises(SourceForbiddenError):
            fetcher.read("http://rebinding.example/a")
        fetcher.close()
    assert wire.connects == [(PUBLIC, 80)]
    assert canary.seen == []
    [(path, headers)] = server.requests
    assert (path, headers["host"]) == ("/a", "rebinding.example")


def test_every_address_of_a_name_is_tried_and_none_when_one_is_private():
    wire = Wire()
    names = Names(two_example=[[PUBLIC, "2606:2800:21f:cb07::1"]], mixed_example=[[PUBLIC, "10.0.0.1"]])
    guard = SsrfGuard(AllowedHosts({}), resolve=names, network=wire)
    with pytest.raises(httpcore.ConnectError):
        guard.connect_tcp("two.example", 443)
    assert wire.connects == [(PUBLIC, 443), ("2606:2800:21f:cb07::1", 443)]
    with pytest.raises(SourceForbiddenError):
        guard.connect_tcp("mixed.example", 443)
    assert len(wire.connects) == 2


def test_public_addresses_pass_those_behind_nat64_too():
    guard = SsrfGuard(AllowedHosts({}), network=Wire())
    for host in (PUBLIC, "1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"):
        assert guard.resolve_checked(host, 443) == [host]
    assert guard.resolve_checked(PUBLIC, 8080) == [PUBLIC]


@pytest.mark.parametrize(
    ("value", "host_port", "allowed"),
    [
        ("10.0.0.7", ("10.0.0.7", 9000), True),
        ("10.0.0.7:9000", ("10.0.0.7", 9000), True),
        ("10.0.0.7:9000", ("10.0.0.7", 9001), False),
        ("nas.lan , minio:9000", ("minio", 9000), True),
        ("nas.lan,minio:9000", ("nas.lan", 80), True),
        ("MinIO:9000", ("minio", 9000), True),
        ("label_studio:8080", ("label_studio", 8080), True),
        ("http://minio:9000/", ("minio", 9000), True),
        ("https://s3.lan", ("s3.lan", 443), True),
        ("https://s3.lan", ("s3.lan", 80), False),
        ("::1", ("::1", 80), True),
        ("[::1]:8080", ("::1", 8080), True),
        ("[::1]:8080", ("::1", 80), False),
        ("", ("", 80), False),
        (" , ", ("", 80), False),
    ],
)
def test_allowed_hosts_are_those_of_the_setting(value, host_port, allowed):
    assert (host_port in AllowedHosts({"CAR_ALLOWED_HOSTS": value})) is allowed


@pytest.mark.parametrize("value", ["user@host", "host:port", "host:99999", "10.0.0.0/8", "*.lan", "0x7f.1", "a b"])
def test_an_entry_that_is_not_a_host_is_refused(value):
    with pytest.raises(SettingsInvalidError, match="CAR_ALLOWED_HOSTS"):
        AllowedHosts({"CAR_ALLOWED_HOSTS": value})


def test_a_name_server_that_does_not_answer_is_abandoned():
    asleep = threading.Event()
    guard = SsrfGuard(AllowedHosts({}), resolve=lambda *_: asleep.wait(20) and [])
    with guard.time_limit(0.1), pytest.raises(SourceUnreachableError, match="name"):
        guard.connect_tcp("slow.example", 80)
    asleep.set()
    guard = SsrfGuard(AllowedHosts({}), resolve=Names())
    with pytest.raises(SourceUnreachableError, match="not known"):
        guard.connect_tcp("typo.example", 80)


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("https://Host.Example/a b.jpg", "host.example", 443, "/a%20b.jpg"),
        ("http://host.example", "host.example", 80, "/"),
        ("http://host.example:8080?x=1", "host.example", 8080, "/?x=1"),
        ("https://host.example/50%/a%20b.jpg#part", "host.example", 443, "/50%25/a%20b.jpg"),
        ("https://host.example/猫.jpg?name=猫", "host.example", 443, "/%E7%8C%AB.jpg?name=%E7%8C%AB"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, "/"),
        ("https://straße.example/", "xn--strae-oqa.example", 443, "/"),
        ("https://host.example./a", "host.example", 443, "/a"),
        ("https://[2606:4700:0:0::1111]/a", "2606:4700::1111", 443, "/a"),
        (
            "https://b.s3.amazonaws.com/k?X-Amz-Signature=a%2Fb&c=d+e",
            "b.s3.amazonaws.com",
            443,
            "/k?X-Amz-Signature=a%2Fb&c=d+e",
        ),
        (" https://host.example/a ", "host.example", 443, "/a"),
        ("https://label_studio:8080/a", "label_studio", 8080, "/a"),
    ],
)
def test_an_address_is_escaped_like_in_a_browser(text, host, port, target):
    url = Url.parse(text)
    assert (url.host, url.port, url.target) == (host, port, target)


def test_an_address_is_shown_without_its_query():
    assert str(Url.parse("https://h.example:8443/a.jpg?X-Amz-Signature=secret")) == "https://h.example:8443/a.jpg"
