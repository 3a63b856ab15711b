"""The Activator as the queue sees it: it lends the engine to jobs."""

from control.activation.activator import Activator, SwitchWish
from control.errors import Conflict, GatewayUnavailable


class ActivatorLender:
    """Implements control.jobs.loans.EngineLender."""

    def __init__(self, activator: Activator) -> None:
        self._activator = activator

    async def switch_to(self, model_id: str, cause: str) -> None:
        try:
            await self._activator.set_active(model_id, SwitchWish(), cause=cause)
        except Conflict as error:  # another switch runs: it will be over
            raise GatewayUnavailable(str(error)) from error
