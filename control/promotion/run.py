"""One attempt at a promotion: asks both models until the answers decide, then switches if that was asked for."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from control.activation.wishes import SwitchCondition, SwitchWish
from control.errors import ActivationFailed, Conflict, GatewayUnavailable, ServiceError, Superseded
from control.promotion.canary import CanaryBoard, CanaryGateway, reason_of, run_canary
from control.promotion.files import ACTIVATION_FILE, CONFIG_FILE, DECISION_FILE, set_folder, write_decision
from control.promotion.request import Named, PromotionConfig
from control.promotion.set_run import FIRST_UNITS, Loader, SetRun, opened
from control.promotion.verdict import look
from evals.judge import AllowedJudges
from evals.questions import Questions
from evals.run_files import read_json, write_json
from stepserve.contract import ActivateResult, ModelRef
from stepserve.jobs.errors import DatabaseUnavailable, WrongWeights
from stepserve.jobs.ports import JobContext


class Switch(Protocol):
    async def set_active(
        self, model_id: str, wish: SwitchWish, *, cause: str = "request", condition: SwitchCondition | None = None
    ) -> ActivateResult:
        """Raises as control.activation.Activator does."""
        ...


class PromotionRun:
    """What was decided once stays: a later attempt finds decision.json and goes on from there."""

    def __init__(
        self,
        context: JobContext,
        judges: AllowedJudges,
        loader: Loader,
        switch: Switch,
        gateway: CanaryGateway,
        board: CanaryBoard,
        runs_dir: Path,
    ) -> None:
        self._context = context
        self._judges = judges
        self._loader = loader
        self._switch = switch
        self._gateway = gateway
        self._board = board
        self._runs_dir = runs_dir
        self._config = PromotionConfig.model_validate(context.config)

    async def run(self) -> dict[str, Any]:
        """Raises JobError, EvalError, GatewayUnavailable, OSError."""
        run_dir = self._context.run_dir
        decided = await asyncio.to_thread(read_json, run_dir / DECISION_FILE)
        if decided is None:
            self._check_weights()
            config = {"job_id": self._context.job_id, "type": "promotion", **self._config.model_dump(mode="json")}
            await asyncio.to_thread(write_json, run_dir / CONFIG_FILE, config)
            await self._ask()
            decided = await asyncio.to_thread(write_decision, run_dir)
        canary = await self._canary(decided)
        reasons = [*decided["reasons"], *([] if canary is None else [reason_of(canary)])]
        decided = {**decided, "reasons": reasons, "canary": canary}
        if canary is not None and canary["state"] != "passed":
            return decided | self._without_switch(canary["state"])
        activation = await self._activation(decided)
        failed = activation is not None and activation["status"] == "failed"
        return decided | {"activation": activation} | ({"decision": "rolled_back"} if failed else {})

    async def _ask(self) -> None:
        """Until it is decided, or everything is answered."""
        async with AsyncExitStack() as stack:
            sets = [await self._opened(stack, number) for number in range(len(self._config.sets))]
            planned = sum(one.planned for one in sets)

            async def report() -> None:
                await self._context.report(sum(one.done for one in sets), planned)

            await report()
            units = FIRST_UNITS if self._config.sequential else planned
            while True:
                found = await asyncio.to_thread(look, self._config, [one.pairs for one in sets])
                if found.is_over or all(one.is_complete for one in sets):
                    return
                here = min(one.pairs.complete for one in sets if not one.is_complete)
                units = max(units, here + here // 2)
                for one in sets:
                    await one.ask_more(units, report)

    async def _opened(self, stack: AsyncExitStack, number: int) -> SetRun:
        config, stored = self._config, self._config.sets[number]
        asked = stored.config
        questions = await stack.enter_async_context(Questions(asked, self._context, self._judges))
        entering = opened(
            asked,
            questions,
            set_folder(self._context.run_dir, number),
            models=(_reference(config.baseline), self._context.model),
            sources=[self._runs_dir / source for source in stored.sources],
            only_reused=config.baseline_run is not None,
            seed=config.seed,
            loader=self._loader,
        )
        return await stack.enter_async_context(entering)

    async def _canary(self, decided: dict[str, Any]) -> dict[str, Any] | None:
        """How it ended; None: none was asked for, or there is nothing that it could be compared with."""
        config = self._config
        asked, active = config.canary, config.active
        if decided["decision"] != "promoted" or asked is None or active in {None, config.candidate.digest}:
            return None
        assert active is not None
        models = (_reference(config.candidate), active)
        run_dir, job_id = self._context.run_dir, self._context.job_id
        engine = self._context.engine
        return await run_canary(asked, job_id, models, run_dir, self._gateway, engine, self._loader, self._board)

    def _without_switch(self, ended: str) -> dict[str, Any]:
        """What a canary that did not pass makes of a promotion."""
        match ended:
            case "breached":
                return {"decision": "rolled_back", "activation": None}
            case "undecided":
                return {"decision": "undecided", "activation": None}
            case _:
                return {"activation": {"status": "superseded", "id": self._config.candidate.id}}

    async def _activation(self, decided: dict[str, Any]) -> dict[str, Any] | None:
        """How the switch ended; None: none was asked for. Raises GatewayUnavailable when it is to be tried again."""
        if decided["decision"] != "promoted" or not self._config.switches:
            return None
        file = self._context.run_dir / ACTIVATION_FILE
        kept = await asyncio.to_thread(read_json, file)
        if kept is None:
            kept = await self._activate()
            await asyncio.to_thread(write_json, file, kept)
        return kept

    async def _activate(self) -> dict[str, Any]:
        candidate = self._config.candidate
        condition = SwitchCondition(candidate.digest, self._config.active)
        try:
            result = await self._switch.set_active(
                candidate.id, SwitchWish(), cause=f"promotion {self._context.job_id}", condition=condition
            )
        except Superseded as error:
            return {"status": "superseded", "id": candidate.id, "error": str(error)}
        except Conflict as error:  # another switch runs: it will be over
            raise GatewayUnavailable(str(error)) from error
        except ActivationFailed as error:
            return error.result.model_dump(mode="json")
        except (GatewayUnavailable, DatabaseUnavailable):
            raise
        except ServiceError as error:  # its files are gone, or its reference cannot be computed
            return {"status": "failed", "id": candidate.id, "error": str(error)}
        return result.model_dump(mode="json")

    def _check_weights(self) -> None:
        model, asked = self._context.model, self._config.candidate
        if model.digest != asked.digest:
            raise WrongWeights(f"{asked.id} was {asked.digest} when the promotion was asked for; it is {model.digest}")


def _reference(model: Named) -> ModelRef:
    """As batch work names a model: by id and digest."""
    return ModelRef(id=model.id, path="", digest=model.digest)
