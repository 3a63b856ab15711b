"""`stepserve power`: the power profile."""

from typing import Annotated

import typer

from stepserve.client.terminal import AsJson, Host, facts, print_json, server_at


def power(
    profile: Annotated[str | None, typer.Argument(help="quiet, normal, max, or one of your own; none: look.")] = None,
    host: Host = None,
    as_json: AsJson = False,
) -> None:
    """Show or set the power profile: the card's limit and how many jobs run at once."""
    with server_at(host) as server:
        now = server.set_power_profile(profile) if profile else server.power_profile()
    if as_json:
        print_json(now)
    else:
        facts("", list(now.as_json().items()))
