"""`python -m ui`: serves the pages. What they show is asked of the server at API_URL, which may be another machine."""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from setproctitle import setproctitle
from streamlit.web import cli

from stepserve.process import follow_parent
from ui import views

EXIT_REFUSED = 78  # EX_CONFIG of sysexits.h: starting again would fail the same way
APP = Path(__file__).with_name("app.py")
_NICENESS = 10  # tokens come first where cores are few


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until SIGTERM or SIGINT; exits with EXIT_REFUSED when starting again would not help."""
    parser = argparse.ArgumentParser(prog="python -m ui", description="Serve the web UI.")
    parser.add_argument("--address", default="127.0.0.1", help="listen on this address (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--api-url", default=None, help="the server (default: API_URL, INFERENCE_URL or hosts.json)")
    parser.add_argument("--supervised", action="store_true", help="end with the process that started this one")
    told = parser.parse_args(arguments)
    try:
        _try_port(told.address, told.port)
    except OSError as error:
        where = f"{told.address}:{told.port}"
        print(f"The web UI cannot listen on {where}: {error.strerror}. Set INFERENCE_UI_PORT.", file=sys.stderr)
        raise SystemExit(EXIT_REFUSED) from error
    if told.api_url is not None:
        os.environ["API_URL"] = told.api_url
    if told.supervised:
        _follow_parent()
    os.nice(_NICENESS)
    for page in iter_modules(views.__path__, f"{views.__name__}."):
        import_module(page.name)  # now, and not while the first visitor waits
    cli.main(["run", str(APP), *_flags(told.address, told.port)], prog_name="streamlit")


def _follow_parent() -> None:
    setproctitle("stepserve: ui")
    follow_parent(signal.SIGTERM)


def _flags(address: str, port: int) -> list[str]:
    """Streamlit sends nothing about its users away, watches no files, and refuses pages of other sites."""
    options: dict[str, object] = {
        "server.address": address,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.enableCORS": "true",
        "server.enableXsrfProtection": "true",
        "server.maxUploadSize": 2048,
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "theme.light.textColor": "#111318",  # what stands in captions is 60 % of it, and has to be read
        "client.showErrorDetails": "none",
        "logger.level": "warning",
        "logger.hideWelcomeMessage": "true",
    }
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def _try_port(address: str, port: int) -> None:
    family, kind, _, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


if __name__ == "__main__":
    main()
