"""Promotions as the job queue sees them."""

from pathlib import Path
from typing import Any, ClassVar

from control.database.tables import JobRow
from control.promotion.canary import CanaryBoard, CanaryGateway
from control.promotion.files import BrokenRun
from control.promotion.run import PromotionRun, Switch
from control.promotion.set_run import Loader
from evals.errors import EvalError
from evals.judge import AllowedJudges
from stepserve.jobs.errors import BadJob
from stepserve.jobs.ports import JobContext


def may_switch(job: JobRow) -> bool:
    """Whether running the job again could make another model active."""
    return job.type == PromotionKind.type and job.config.get("on_pass") == "activate"


class PromotionKind:
    """Runs on the candidate, which is loaded beside what serves: it becomes active by a decision alone."""

    type: ClassVar[str] = "promotion"

    def __init__(
        self,
        judges: AllowedJudges,
        loader: Loader,
        switch: Switch,
        gateway: CanaryGateway,
        board: CanaryBoard,
        runs_dir: Path,
    ) -> None:
        self._judges = judges
        self._loader = loader
        self._switch = switch
        self._gateway = gateway
        self._board = board
        self._runs_dir = runs_dir

    async def run(self, context: JobContext) -> dict[str, Any]:
        """The result is decision.json and how the switch ended. Raises as stepserve.jobs.ports.EngineKind says."""
        try:
            run = PromotionRun(
                context, self._judges, self._loader, self._switch, self._gateway, self._board, self._runs_dir
            )
            return await run.run()
        except (EvalError, BrokenRun) as error:
            raise BadJob(str(error)) from error
