"""Web addresses of images, parsed strictly, and which IP addresses are public.

An address that two programs could read differently (a user name, a backslash, an octal number) is refused, not guessed.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Self
from urllib.parse import quote, urljoin, urlsplit

import idna

from car.printable import printable
from worker.errors import SourceForbiddenError, SourceNotFoundError

PORTS = {"http": 80, "https": 443}
_FIRST_UNPRIVILEGED_PORT = 1024
_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>[0-9]{1,5})?)?", re.ASCII)
_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_][a-z0-9_-]{0,62})*", re.ASCII)
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+", re.ASCII)
_HALF_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})", re.ASCII)

# From the registries, because is_global alone differs between Python versions.
_RESERVED_4 = [
    IPv4Network("0.0.0.0/8"),
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("168.63.129.16/32"),  # Azure's platform services, reachable from every machine there
    IPv4Network("169.254.0.0/16"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.0.2.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("224.0.0.0/3"),
]
_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
_RESERVED_6 = [
    IPv6Network("2001::/23"),  # Teredo, ORCHID and other encapsulations
    IPv6Network("2001:db8::/32"),
    IPv6Network("2002::/16"),  # 6to4, which embeds an IPv4 address
    IPv6Network("3fff::/20"),
]
_NAT64 = IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class Url:
    """An http or https address: `host` in ASCII without brackets and final dot, `target` as sent in the request."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises: SourceForbiddenError."""
        text = text.strip(" ")
        if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):  # noqa: PLR2004 - control characters
            raise SourceForbiddenError("the address contains a line break or another control character; remove it")
        try:
            scheme, authority, path, query, _ = urlsplit(text)
        except ValueError:
            raise SourceForbiddenError("the address is invalid; use one like https://host/image.jpg") from None
        if scheme not in PORTS:
            raise SourceForbiddenError(
                f"images are not fetched by {(scheme or text[:20])!r}; use https://, http:// or s3://"
            )
        host, port = split_host_port(authority)
        target = _escape(path or "/") + (f"?{_escape(query)}" if query else "")
        return cls(scheme, host, port or PORTS[scheme], target)

    def joined(self, location: str) -> Self:
        """Return the address that a redirect to `location` leads to."""
        try:
            return type(self).parse(urljoin(f"{self.scheme}://{self.authority}{self.target}", location))
        except ValueError:
            where = printable(location)[:80]
            reason = f"{self} redirects to {where!r}, which is no address; use its final one"
            raise SourceNotFoundError(reason) from None

    @property
    def authority(self) -> str:
        """For a Host header: the port only if it is not the scheme's default."""
        return self._bracketed_host if self.port == PORTS[self.scheme] else self.host_port

    @property
    def host_port(self) -> str:
        """host:port, as in CAR_ALLOWED_HOSTS."""
        return f"{self._bracketed_host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def _bracketed_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        """Without the query, which may hold a signature."""
        return f"{self.scheme}://{self.authority}{self.path}"


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is on the internet, not on this machine, its network, its cloud or behind a tunnel."""
    if isinstance(address, IPv4Address):
        return address.is_global and not any(address in network for network in _RESERVED_4)
    if address in _NAT64:
        return is_public(IPv4Address(address.packed[-4:]))
    return address.is_global and address in _GLOBAL_UNICAST_6 and not any(address in net for net in _RESERVED_6)


def is_web_port(port: int) -> bool:
    """Return whether a web server may use the port: privileged ports are those of other services."""
    return port in PORTS.values() or port >= _FIRST_UNPRIVILEGED_PORT


def split_host_port(authority: str) -> tuple[str, int | None]:
    """Return host and port (or None) of host, host:port, [IPv6] or [IPv6]:port. Raises: SourceForbiddenError."""
    if "@" in authority:
        raise SourceForbiddenError("the address contains a user name or password; remove it")
    match = _AUTHORITY.fullmatch(authority.lower())
    if match is None:
        raise SourceForbiddenError(f"{authority[:80]!r} is not a host; use an address like https://host/image.jpg")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 2**16:
        raise SourceForbiddenError(f"there is no port {port}")
    if match["six"] is None:
        return _normalize_host(match["name"]), port
    try:
        return str(ip_address(match["six"])), port
    except ValueError:
        raise SourceForbiddenError(f"{authority[:80]!r} is not a host: the IPv6 address is invalid") from None


def _normalize_host(name: str) -> str:
    """Return a host name for comparison: ASCII, without final dot; an IP address in its usual notation."""
    name = name.removesuffix(".")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode().removesuffix(".").lower()
        except (idna.IDNAError, UnicodeError):
            raise SourceForbiddenError(f"{name[:80]!r} is not a host name") from None
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise SourceForbiddenError(
                f"{name[:80]!r} is an unusual notation of an IP address; write it like 1.2.3.4"
            ) from None
    if not _NAME.fullmatch(name):
        raise SourceForbiddenError(f"{name[:80]!r} is not a host name")
    return name


def _escape(part: str) -> str:
    """Escape as browsers do: existing escapes stay, spaces and non-ASCII letters are escaped."""
    return quote(_HALF_ESCAPE.sub("%25", part), safe="/%:@!$&'()*+,;=~?[]", errors="replace")
