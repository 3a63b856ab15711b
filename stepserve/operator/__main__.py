"""`python -m stepserve.operator`: serves the CheckpointRollouts of one namespace until SIGTERM.

INFERENCE_URL and INFERENCE_API_KEY (with the scope `admin`) say which server, as for every client.
"""

import logging
import sys
from typing import Annotated

import typer

from stepserve.client import AsyncClient
from stepserve.client.errors import StepserveError
from stepserve.client.terminal import EXIT_REFUSED, stop
from stepserve.operator.driver import Driver

try:
    import kopf

    from stepserve.operator.handlers import as_steps, registry_of, settings_of
    from stepserve.operator.observer import Observer
except ModuleNotFoundError as error:
    if error.name != "kopf":
        raise
    sys.stderr.write("The operator needs kopf, of the extra `operator`: pip install 'stepserve[operator]'.\n")
    raise SystemExit(EXIT_REFUSED) from None


def main(
    namespace: Annotated[str, typer.Option(envvar="POD_NAMESPACE", help="Whose CheckpointRollouts it serves.")],
    probe_port: Annotated[int, typer.Option(help="Where /healthz answers while it lives; 0: nowhere.")] = 8080,
    observe_every_s: Annotated[
        float, typer.Option(min=0.1, help="How often it looks whether another model became active.")
    ] = 10.0,
) -> None:
    """Bring a Stepserve server to the models that the CheckpointRollouts of a namespace name."""
    kopf.configure(log_format=kopf.LogFormat.JSON)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look
    logging.getLogger("kopf.objects").addFilter(as_steps)
    try:
        client = AsyncClient(retry_s=0)
    except StepserveError as error:
        stop(str(error), EXIT_REFUSED)
    driver = Driver(client)
    kopf.run(
        registry=registry_of(driver, Observer(driver, namespace, observe_every_s)),
        settings=settings_of(),
        standalone=True,
        namespaces=[namespace],
        liveness_endpoint=f"http://0.0.0.0:{probe_port}/healthz" if probe_port else None,
    )


if __name__ == "__main__":
    typer.run(main)
