"""Addresses to listen on."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine reaches it. A name other than localhost counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def loopback_for(host: str) -> str:
    """127.0.0.1, or ::1 where the address is of version 6."""
    return "::1" if ":" in host else "127.0.0.1"
