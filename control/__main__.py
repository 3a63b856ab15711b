"""`python -m control`: the sidecar process, serving on its Unix socket until SIGTERM."""

import logging
import sys

import uvicorn
from setproctitle import setproctitle

from control.app import create_app
from evals.kind import EvalKind
from switchyard import logs
from switchyard.settings import Settings

GRACE_S = 2

log = logging.getLogger(__name__)


def main() -> int:
    """Returns at SIGTERM or SIGINT, jobs given back to the queue; 3 when the start was refused."""
    setproctitle("switchyard: control")
    settings = Settings()
    layout = settings.layout
    layout.create()
    logs.configure("control", settings)
    app = create_app(settings, [EvalKind()])
    layout.control_socket.unlink(missing_ok=True)
    try:
        uvicorn.run(
            app,
            uds=str(layout.control_socket),
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_S,
            ws="none",
        )
    except SystemExit as stop:
        if app.state.refusal is None:
            raise
        log.critical("control cannot start: %s", app.state.refusal)
        sys.stderr.write(f"switchyard control cannot start: {app.state.refusal}\n")
        return stop.code if isinstance(stop.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
