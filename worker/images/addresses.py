"""Addresses of pictures on the web, read strictly, and which of the world's IP addresses may be asked for them.

What two programs could read in two ways (a user name, a backslash, a number in octal) is refused, not guessed.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

import idna

from worker.errors import SourceForbiddenError

PORTS = {"http": 80, "https": 443}
_FIRST_FREE_PORT = 1024
_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5})?)?", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_HALF_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)

# By registry, not by is_global alone: that answers differently from one Python to the next.
_CLOSED_4 = [
    IPv4Network(one)
    for one in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's own services, on every machine there
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
]
_OPEN_6 = IPv6Network("2000::/3")
_CLOSED_6 = [
    IPv6Network(one)
    for one in (
        "2001::/23",  # Teredo, ORCHID and other wrappings
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Url:
    """Whom to ask for what: `host` in ASCII without brackets and final dot, `target` as it goes over the wire."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: SourceForbidden."""
        text = text.strip(" ")
        if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):  # noqa: PLR2004 - control characters
            raise SourceForbiddenError("the address holds a line break or another control character; write it without")
        try:
            scheme, authority, path, query, _ = urlsplit(text)
        except ValueError:
            raise SourceForbiddenError("the address cannot be read; it looks like https://host/picture.jpg") from None
        if scheme not in PORTS:
            raise SourceForbiddenError(
                f"{(scheme or text[:20])!r} is nothing that pictures are fetched by; use https://, http:// or s3://"
            )
        host, port = place_of(authority)
        target = _escaped(path or "/") + (f"?{_escaped(query)}" if query else "")
        return cls(scheme, host, port or PORTS[scheme], target)

    def joined(self, location: str) -> Self:
        """Where a redirect leads."""
        try:
            return type(self).parse(urljoin(f"{self.scheme}://{self.authority}{self.target}", location))
        except ValueError:
            raise SourceForbiddenError(f"{self} redirects to an address that cannot be read") from None

    @property
    def authority(self) -> str:
        """For a Host header: the port only where it is not the scheme's own."""
        return self._host if self.port == PORTS[self.scheme] else self.place

    @property
    def place(self) -> str:
        """host:port, as CAR_ALLOWED_HOSTS takes it."""
        return f"{self._host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        """Without the query: that is where signatures are."""
        return f"{self.scheme}://{self.authority}{self.path}"


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it leads into the open internet, and not to this machine, its network, its cloud or a tunnel."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _CLOSED_4)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address.is_global and address in _OPEN_6 and not any(address in network for network in _CLOSED_6)


def port_is_usual(port: int) -> bool:
    """Ports of other services than the web's are not knocked at."""
    return port in PORTS.values() or port >= _FIRST_FREE_PORT


def place_of(authority: str) -> tuple[str, int | None]:
    """Host and port, where there is one, of host, host:port, [IPv6] or [IPv6]:port.

    Raises:
        SourceForbidden: something else, with a user name in it perhaps.

    """
    if "@" in authority:
        raise SourceForbiddenError("the address holds a user name or password; write it without")
    found = _AUTHORITY.fullmatch(authority.lower())
    if found is None:
        raise SourceForbiddenError(f"{authority[:80]!r} names no host; an address looks like https://host/picture.jpg")
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 0 < port < 2**16:
        raise SourceForbiddenError(f"there is no port {port}")
    if found["six"] is None:
        return _host_of(found["name"]), port
    try:
        return str(ip_address(found["six"])), port
    except ValueError:
        raise SourceForbiddenError(f"{authority[:80]!r} names no host; this is no IPv6 address") from None


def _host_of(name: str) -> str:
    """As it is compared: ASCII, no final dot; an IP address in its one usual form."""
    name = name.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode().removesuffix(".").lower()
        except (idna.IDNAError, UnicodeError):
            raise SourceForbiddenError(f"{name[:80]!r} is no name of a host") from None
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise SourceForbiddenError(
                f"{name[:80]!r} is an unusual way to write an IP address; write it as 1.2.3.4"
            ) from None
    if not _NAME.fullmatch(name):
        raise SourceForbiddenError(f"{name[:80]!r} is no name of a host")
    return name


def _escaped(part: str) -> str:
    """As a browser sends it: what is escaped stays, spaces and letters of other alphabets become escapes."""
    return quote(_HALF_ESCAPE.sub("%25", part), safe="/%:@!$&'()*+,;=~?[]", errors="replace")
