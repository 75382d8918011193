"""URLs as identifiers: issuers, resources and DPoP targets are compared, never guessed."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from retinue.errors import ConfigError

_VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def split(url: str) -> SplitResult:
    """Split an absolute http(s) URL; ValueError for anything that two parsers could take apart in two ways."""
    if not _VISIBLE_ASCII.fullmatch(url) or "\\" in url:
        raise ValueError("not a URL")
    parts = urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or "@" in parts.netloc:
        raise ValueError("not an absolute http(s) URL without user information")
    _ = parts.port  # raises ValueError when it is not a number below 65536
    return parts


def origin(url: str) -> str:
    """``scheme://host[:port]`` in lower case, without a default port (RFC 6454 §4)."""
    parts = split(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def target(url: str) -> str:
    """The form in which DPoP targets are compared: origin and path, without query and fragment (RFC 9449 §4.3)."""
    return origin(url) + (split(url).path or "/")


def under(url: str, resource: str) -> bool:
    """Whether ``url`` is the resource itself or below its path."""
    try:
        found, base = target(url), target(resource)
    except ValueError:
        return False
    return found == base or found.startswith(base.rstrip("/") + "/")


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def require_secure(url: str, what: str) -> str:
    """Refuse a URL that is not https (or http on loopback), or that has a query or fragment; return it unchanged."""
    try:
        parts = split(url)
    except ValueError as error:
        raise ConfigError(f"{what} is {error}", hint="Give an absolute https:// URL.") from None
    if parts.query or parts.fragment:
        # Not the URL itself: a query is where people put keys.
        raise ConfigError(
            f"{what} must not have a query or fragment: {target(url)}", hint="Give scheme, host and path alone."
        )
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigError(f"{what} must use https: {url}", hint="Plain http is accepted on loopback only.")
    return url


def well_known(url: str, name: str) -> str:
    """The well-known URL of an identifier: the name goes between host and path (RFC 8414 §3.1, RFC 9728 §3.1)."""
    path = split(url).path.rstrip("/")
    return f"{origin(url)}/.well-known/{name}{path}"
