"""`stepserve node`: a machine that computes a share of another machine's model."""

import os
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from stepserve.client.terminal import stop_without_server


def node(
    join: Annotated[str, typer.Option(help="The head: HOST:PORT of its nodes.address and nodes.port.")],
    address: Annotated[
        str | None, typer.Option(help="This machine's address for the other nodes (default: auto-detected).")
    ] = None,
    interface: Annotated[str | None, typer.Option(help="The network interface with that address.")] = None,
    name: Annotated[str | None, typer.Option(help="Its name on the head (default: the machine's name).")] = None,
) -> None:
    """Compute a share of a head's models, until Ctrl-C; joins again whenever the head was away.

    The head's nodes.key comes from INFERENCE_NODES__KEY.
    """
    if find_spec("gateway") is None:
        stop_without_server(ModuleNotFoundError("gateway", name="gateway"))
    flags = {"--join": join, "--address": address, "--interface": interface, "--name": name}
    given = [part for flag, value in flags.items() if value is not None for part in (flag, value)]
    os.execv(sys.executable, [sys.executable, "-m", "gateway.nodes", *given])  # noqa: S606 - in the place of this process
