"""A data generation job: as it is asked for (`POST /data_gen/jobs`), and as it is stored once it was checked."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen.config import GenerationConfig
from datagen.errors import DataGenError
from datagen.strategy import Sources, Strategy, strategy_of
from stepserve.jobs.ports import JobRequest


class DataGenRequest(JobRequest):
    """`config` is the strategy's to read."""

    strategy: Annotated[str, Field(min_length=1, max_length=100)]
    config: dict[str, Any] = Field(default={})
    name: Annotated[str, Field(max_length=200)] = ""


class ConfigRefused(DataGenError):
    """What the strategy's config model objects to, with the fields as a client wrote them."""

    def __init__(self, error: ValidationError) -> None:
        super().__init__("; ".join(_readable(one) for one in error.errors()))


class StoredConfig(BaseModel):
    """`source_digest`: of what the strategy read when the job was made."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    strategy: str
    name: str = ""
    config: dict[str, Any]
    source_digest: str = ""

    def parsed(self) -> GenerationConfig:
        """Raises UnknownStrategy, ConfigRefused."""
        try:
            return strategy_of(self.strategy).config_model.model_validate(self.config)
        except ValidationError as error:
            raise ConfigRefused(error) from error

    def open_strategy(self, sources: Sources) -> Strategy:
        """Blocks; raises DataGenError."""
        return strategy_of(self.strategy).open(self.parsed(), sources)


def _readable(error: Any) -> str:
    place = ".".join(str(part) for part in ("config", *error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown field"
    if error["type"] == "missing":
        return f"{place}: is missing"
    return f"{place}: {str(error['msg']).removeprefix('Value error, ')}"
