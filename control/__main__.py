"""`python -m control`: the sidecar process, serving on its Unix socket until SIGTERM."""

import logging
import os
import signal
import sys

import uvicorn
from setproctitle import setproctitle

from control.app import create_app
from control.routes import contamination, data_gen, datasets, eval_tasks, evals, traffic
from datagen.contamination_reports import ContaminationReports
from datagen.feedback import FeedbackRows
from datagen.kind import DataGenKind
from datagen.pipelines.preview import Previews
from datagen.rejections import RunReports
from evals.dataset_store import FileDatasetStore
from evals.harness.kind import TaskFileKind
from evals.judge import AllowedJudges
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve import logs
from stepserve.child import EXIT_REFUSED
from stepserve.privacy import make_private, reserve_socket
from stepserve.process import follow_parent, spare_collector
from stepserve.setting_origins import load

GRACE_S = 2
NICENESS = 10  # whoever waits for a token goes before samples that are scored and files that are hashed

log = logging.getLogger("control")


def main() -> int:
    """Serves until SIGTERM or SIGINT, then gives the jobs back; EXIT_REFUSED when starting again would not help."""
    make_private()
    setproctitle("stepserve: control")
    os.nice(NICENESS)
    follow_parent(signal.SIGTERM)
    settings = load()
    layout = settings.layout
    layout.create()
    logs.configure("control", settings)
    judges = AllowedJudges(settings.judge_urls, settings.judge_api_keys)
    reports = EvalReports(judges)
    tasks = TaskFileKind.at(layout, settings)
    store = FileDatasetStore()
    routes = [
        contamination.router_of(ContaminationReports()),
        datasets.router_of(store),
        traffic.datasets_router(store, FeedbackRows()),
        evals.router_of(reports),
        eval_tasks.router_of(tasks),
        data_gen.reports_router(RunReports()),
        data_gen.previews_router(Previews(layout)),
    ]
    evaluations = EvalKind(judges, settings.max_sequences_per_request, tasks)
    app = create_app(settings, [evaluations, DataGenKind(layout)], more_routes=routes, eval_reports=reports)
    # uvicorn stops gracefully at SIGTERM and then raises it again, for what was installed before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    reserve_socket(layout.control_socket)
    spare_collector()
    try:
        uvicorn.run(
            app,
            uds=str(layout.control_socket),
            access_log=False,
            proxy_headers=False,
            log_config=None,
            timeout_graceful_shutdown=GRACE_S,
            timeout_keep_alive=settings.keep_alive_s,
            ws="none",
        )
    except SystemExit:
        if app.state.refusal is None:
            raise
        log.critical("control cannot start: %s", app.state.refusal)
        sys.stderr.write(f"stepserve control cannot start: {app.state.refusal}\n")
        return EXIT_REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
