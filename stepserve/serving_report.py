"""How much a gateway serves: what control asks it for once a second, to keep its history."""

from pydantic import BaseModel, ConfigDict

from stepserve.contract import EngineDeath

GATEWAY_SERVING_PATH = "/serving"


class ServingReport(BaseModel):
    """Counts since the gateway started (`boot_id` differs between two starts), and what waits and runs now.

    `requests`: those for inference on public routes. `tokens`: completion tokens by model, of jobs too.
    `first_token_counts` has one number more than `first_token_bounds_s`: how many first tokens came within each bound
    and after the one before, and after the last. `version`: of the pushed weights that serve, 0 for those of files.
    `deaths`: the last few.
    """

    model_config = ConfigDict(frozen=True)

    boot_id: str
    active: str | None
    version: int
    requests: int
    running: int
    waiting: int
    tokens: dict[str, int]
    first_token_bounds_s: list[float]
    first_token_counts: list[int]
    deaths: list[EngineDeath]
