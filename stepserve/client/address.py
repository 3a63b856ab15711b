"""Where the server is, and what opens it: from what was said, the environment, or hosts.json."""

import ipaddress
import os
from pathlib import Path

from stepserve.client.errors import StepserveError
from stepserve.hosts import Host, HostsRefused, find, load

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8765
URL_VARIABLE, KEY_VARIABLE = "INFERENCE_URL", "INFERENCE_API_KEY"


def resolve(said: str | None) -> str:
    """A URL as it is; `inference` or `trainer` of hosts.json; `host:port`; `host` with the default port.

    None: INFERENCE_URL, else the `inference` host, which INFERENCE_HOST and INFERENCE_PORT override, else this machine.
    Raises StepserveError for a hosts.json that cannot be used.
    """
    said = said or os.environ.get(URL_VARIABLE) or "inference"
    if "://" in said:
        return said
    if said in {"inference", "trainer"}:
        listed = _listed(said)
        return url_of(listed.host or DEFAULT_HOST, listed.port or DEFAULT_PORT)
    if said.count(":") > 1 and not said.startswith("["):
        return url_of(said)
    host, colon, port = said.rpartition(":")
    if not colon or port.endswith("]"):
        return url_of(said.strip("[]"))
    if not port.isdecimal():
        raise StepserveError(f"{said!r} is not the address of a server: {port!r} is not a port.")
    return url_of(host.strip("[]"), int(port))


def url_of(host: str, port: int = DEFAULT_PORT) -> str:
    """An address to listen on everywhere (`0.0.0.0`, `::`) is this machine; an IPv6 address gets its brackets."""
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = DEFAULT_HOST
        elif address.version == 6:
            host = f"[{host}]"
    except ValueError:
        pass
    return f"http://{host}:{port}"


def default_key() -> str | None:
    return os.environ.get(KEY_VARIABLE) or None


def _listed(name: str) -> Host:
    """That machine in hosts.json, its variables merged in."""
    named = os.environ.get("INFERENCE_HOSTS_FILE")
    base_dir = Path(os.environ.get("INFERENCE_BASE_DIR") or "~/llm").expanduser()
    try:
        hosts = load(find(Path(named) if named else None, base_dir))
    except HostsRefused as error:
        raise StepserveError(f"{error}.") from error
    return hosts.inference if name == "inference" else hosts.trainer
