"""The web UI beside a server: whether it is started, with what, and where people find it."""

import os
import sys
from importlib.util import find_spec

from stepserve.address import is_loopback, loopback_for
from stepserve.child import Child
from stepserve.settings import Settings

PATH = "/ui"
# Whoever reaches the pages brings a key; they never act with one of whoever started the server.
_NOT_FOR_ALL = frozenset({"INFERENCE_API_KEY", "INFERENCE_ACCESS__ADMIN_KEY", "INFERENCE_DATABASE_URL", "HF_TOKEN"})


def is_installed() -> bool:
    return find_spec("streamlit") is not None and find_spec("ui") is not None


def child_of(settings: Settings) -> Child | None:
    """The process to supervise; None where there is to be none."""
    if not settings.ui or not is_installed():
        return None
    command = [sys.executable, "-m", "ui", "--address", settings.ui_host, "--port", str(settings.ui_port)]
    command += ["--api-url", _api_url(settings), "--supervised"]
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_ALL}
    return Child("ui", command, environment)


def url_of(settings: Settings, host: str | None = None) -> str:
    """`host`: what the reader calls this machine."""
    return f"http://{_bracketed(host or settings.ui_host)}:{settings.ui_port}"


def unavailable(settings: Settings, host: str) -> str | None:
    """Why somebody who calls this machine `host` finds no pages there; None where they should be."""
    if not settings.ui:
        return "The web UI is switched off here (setting ui)."
    if not is_installed():
        return "The web UI is not installed here: it comes with the extra `ui` of stepserve-server."
    if is_loopback(settings.ui_host) and host != "localhost" and not is_loopback(host):
        return (
            f"The web UI listens on {settings.ui_host} alone; open a tunnel"
            f" (ssh -L {settings.ui_port}:localhost:{settings.ui_port} {host}) or set ui_host."
        )
    return None


def _api_url(settings: Settings) -> str:
    scheme = "https" if settings.tls.on else "http"
    return f"{scheme}://{_bracketed(loopback_for(settings.host))}:{settings.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
