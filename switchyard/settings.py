"""Settings of both processes, read once at start: defaults, then `INFERENCE_…` variables, then flags of `up`.

`switchyard up` passes its flags to the processes it starts as these same variables, so there is one way in.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from switchyard.paths import Layout

PositiveSeconds = Annotated[float, Field(gt=0)]


class EngineSettings(BaseModel):
    """What vLLM is started with, the same for every slot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_model_len: Annotated[int, Field(ge=1)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] = 256
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    seed: int = 0
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] = 1
    trust_remote_code: bool = False


class Settings(BaseSettings):
    """Every setting with its default. Nested ones are written `INFERENCE_ENGINE__MAX_NUM_SEQS=64`."""

    model_config = SettingsConfigDict(
        env_prefix="INFERENCE_", env_nested_delimiter="__", extra="ignore", frozen=True, validate_default=True
    )

    base_dir: Path = Path("~/llm")
    models_dir: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8765
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    install_demo: bool = True
    model_path: Path | None = None

    max_request_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    max_held_requests: Annotated[int, Field(ge=0)] = 1024
    hold_timeout_s: PositiveSeconds = 300.0
    drain_timeout_s: PositiveSeconds = 5.0
    keep_alive_s: Annotated[int, Field(ge=1)] = 300
    engine_restart_max_delay_s: PositiveSeconds = 60.0

    proof_compute_max_bytes: Annotated[int, Field(ge=0)] = 2_000_000_000
    proof_wait_s: Annotated[float, Field(ge=0)] = 30.0

    database_url: SecretStr | None = None

    max_concurrent_jobs: Annotated[int, Field(ge=1)] = 1
    max_concurrent_by_type: dict[str, Annotated[int, Field(ge=0)]] = {}
    max_pending_jobs: Annotated[int, Field(ge=1)] = 10_000
    job_retries: Annotated[int, Field(ge=0)] = 20
    batch_items: Annotated[int, Field(ge=1, le=1024)] = 64
    batch_window_items: Annotated[int, Field(ge=1)] = 512
    job_lease_s: PositiveSeconds = 15.0

    engine: EngineSettings = EngineSettings()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql+asyncpg://", "sqlite+aiosqlite://")):
            raise ValueError("must begin with postgresql+asyncpg:// or sqlite+aiosqlite://")
        return url

    @model_validator(mode="after")
    def _window_keeps_the_engine_fed(self) -> Self:
        if self.batch_window_items < 2 * self.batch_items:
            raise ValueError(
                f"batch_window_items ({self.batch_window_items}) must be at least twice batch_items"
                f" ({self.batch_items}), or the engine would wait between chunks"
            )
        return self

    @property
    def layout(self) -> Layout:
        base = self.base_dir.expanduser().absolute()
        models = self.models_dir.expanduser().absolute() if self.models_dir else base / "models"
        return Layout(base=base, models=models)
