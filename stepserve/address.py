"""Addresses to listen on, and URLs in settings."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it. A name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_everywhere(host: str) -> bool:
    """Whether it stands for every address of this machine: `0.0.0.0`, `::`."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def loopback_for(host: str) -> str:
    """127.0.0.1, or ::1 where the address is of version 6."""
    return "::1" if ":" in host else "127.0.0.1"


def normal_url(url: str) -> str:
    """Equal for base URLs that mean the same: lower-case host, no default port, no slash at the end.

    Raises ValueError for what is not a plain http or https URL.
    """
    parts = urlsplit(url)
    port = parts.port
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == 0 or any(map(str.isspace, url)):
        raise ValueError(f"{url!r} is not a URL such as http://192.0.2.2:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("a base URL has no user, password, query or fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    place = "" if port in {None, {"http": 80, "https": 443}[parts.scheme]} else f":{port}"
    return f"{parts.scheme}://{host}{place}{parts.path}".rstrip("/")
