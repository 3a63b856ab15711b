"""A data generation job: as it is asked for (`POST /data_gen/jobs`), and as it is stored once it was checked."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datagen.config import GenerationConfig
from datagen.errors import ConfigRefused
from datagen.strategy import Sources, Strategy, strategy_of
from stepserve.jobs.ports import JobRequest


class DataGenRequest(JobRequest):
    """`config` is the strategy's to read."""

    strategy: Annotated[str, Field(min_length=1, max_length=100)]
    config: dict[str, Any] = Field(default={})
    name: Annotated[str, Field(max_length=200)] = ""


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
