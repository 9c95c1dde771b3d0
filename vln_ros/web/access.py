"""Who may see the page and talk to it: this machine, or who has the token; and no other page's script."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from urllib.parse import urlsplit

from vln_ros.config import ConfigError

LOCAL_NAMES = ("localhost",)
SHORTEST_TOKEN = 16


class Access:
    """Judges requests by their headers.

    On this machine only (a loopback address) no token is asked, unless one is given. Other pages in the same
    browser are kept out by their origin, and by the name in ``Host``: a foreign name that leads here by DNS
    is none of ours.

    Args:
        host: address that the server listens at.
        token: to ask for; empty: a random one, or none on a loopback address.

    Raises:
        ConfigError: a token that can be guessed.
    """

    def __init__(self, host: str, token: str) -> None:
        if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isalnum()):
            raise ConfigError(
                f"token = {token!r}: must be at least {SHORTEST_TOKEN} letters and digits; "
                "leave it empty for a random one"
            )
        self.host = host
        self.is_local = is_loopback(host)
        self.token = token or ("" if self.is_local else secrets.token_hex(16))

    def is_token(self, given: str) -> bool:
        """Whether this is the token, or none is asked."""
        return not self.token or hmac.compare_digest(
            given.encode("utf-8", "surrogatepass"), self.token.encode("ascii")
        )

    def why_not_here(self, host: str) -> str:
        """Why a request with this ``Host`` is refused; empty: it is not. For pages that ask no token."""
        if self.token or is_loopback(_name_of(host)):
            return ""
        return f"this page is served on this machine only, not as {host!r}"

    def why_foreign(self, origin: str | None, host: str) -> str:
        """Why a connection from a page of this origin is refused; empty: it is this server's own page."""
        if origin is None:
            return "a connection must say which page it comes from (Origin)"
        try:
            parts = urlsplit(origin)
        except ValueError:
            return "the origin cannot be read"
        if parts.scheme in ("http", "https") and parts.netloc and parts.netloc.lower() == host.lower():
            return ""
        return f"the page {origin!r} is not of this server"

    def addresses(self, port: int) -> list[str]:
        """What a person types into the browser; with the token where one is asked."""
        query = f"/?token={self.token}" if self.token else "/"
        hosts = [self.host] if not _is_any(self.host) else ["127.0.0.1", *_own_addresses()]
        return [f"http://{f'[{h}]' if ':' in h else h}:{port}{query}" for h in hosts]


def is_loopback(host: str) -> bool:
    """Whether this name or address always leads to this machine itself."""
    if host.lower() in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    """A ``Host`` header without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_any(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _own_addresses() -> list[str]:
    """The address by which other machines would reach this one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # of a block for documentation (RFC 5737): only the route is asked
        except OSError:
            return []
        return [str(probe.getsockname()[0])]
