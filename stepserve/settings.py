"""Settings of both processes, read once when a process starts: one typed tree.

What is named later wins: defaults, the config file, hosts.json, names from before the prefix (`PORT`), `INFERENCE_…`
variables, flags of `up`. `stepserve up` passes its flags to the processes it starts as variables. Groups are tables in
the file and `__` in variables: `INFERENCE_ENGINE__MAX_NUM_SEQS=64`.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stepserve.access_settings import AccessSettings, LimitSettings, TlsSettings
from stepserve.address import is_loopback, normal_url
from stepserve.contract import ACTIVE_ALIAS, EngineOverrides
from stepserve.engine_arguments import SettingsArgs
from stepserve.fleet_settings import FleetSettings
from stepserve.installed_vllm import is_cpu_build
from stepserve.keep_alive import KeepAlive
from stepserve.named_templates import template_text
from stepserve.node_settings import NodeSettings
from stepserve.paths import Layout
from stepserve.replica_settings import ReplicaSettings
from stepserve.request_model import RequestModel
from stepserve.retention import RetentionSettings
from stepserve.setting_sources import HOSTS_VARIABLE, ConfigFile, HostsFile, OlderNames, config_file
from stepserve.stored_responses import StoredResponsesSettings
from stepserve.structured_bounds import StructuredLimits
from stepserve.traffic import TrafficSettings

PositiveSeconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
PatchSwitch = Literal["auto", "off"]
ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]

ALL_PATCHES = frozenset({"all", "*"})
_SHORTEST_HANG_S = 5.0
_LOADED_ON_CPU = 2  # models, where max_loaded_models is not given


def _whole(value: object) -> object:
    """`14e9` is how people write a number of bytes."""
    try:
        return int(float(value)) if isinstance(value, str) else value
    except (ValueError, OverflowError):
        return value


class Group(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class EnginePatches(Group):
    """What is changed of vLLM's behaviour; `off` leaves it as vLLM has it. docs/engine-patches.md has the table.

    `all` (or `*`) is the value of every patch that is not named.
    """

    forked_engines: PatchSwitch = "auto"
    one_process: PatchSwitch = "auto"
    cpu_norms: PatchSwitch = "auto"
    no_compiler: PatchSwitch = "auto"
    step_sizes: PatchSwitch = "auto"
    probe_places: PatchSwitch = "auto"
    whole_answers: PatchSwitch = "auto"
    finite_answers: PatchSwitch = "auto"
    clean_blocks: PatchSwitch = "auto"
    fewer_lookups: PatchSwitch = "auto"
    long_texts_in_turn: PatchSwitch = "auto"
    bounded_templates: PatchSwitch = "auto"
    grammar_trials: PatchSwitch = "auto"
    grammar_compiling: PatchSwitch = "auto"
    grammar_budget: PatchSwitch = "auto"
    fewer_layers: PatchSwitch = "auto"
    short_routes: PatchSwitch = "auto"
    prefill: PatchSwitch = "auto"

    @model_validator(mode="before")
    @classmethod
    def _for_all(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        named = {name: value for name, value in given.items() if name not in ALL_PATCHES}
        for name in ALL_PATCHES & given.keys():
            named = dict.fromkeys(cls.model_fields, given[name]) | named
        return named

    @property
    def off(self) -> frozenset[str]:
        return frozenset(name for name, switch in self if switch == "off")


class EngineSettings(Group):
    """What vLLM is started with, the same for every slot, and how long an engine may be silent.

    `start_timeout_s`: a start that takes longer, or a reload in place, has failed; a second is added for each 50 MB of
    weights. `hang_timeout_s`: an engine that makes no step and gives no token for so long is started again. `args`: any
    other of vLLM's engine arguments by its name; the gateway has vLLM check them before it starts an engine.
    `gpu_memory_utilization`: None: each engine gets what its model needs (stepserve.placement).
    """

    max_model_len: Count | None = None
    max_num_seqs: Count = 256
    max_num_batched_tokens: Count | None = None
    batch_beside_interactive: Count | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    seed: int = 0
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    cpu_kv_cache_gib: Count = 1
    trust_remote_code: bool = False
    media_domains: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]] = []
    attention_backend: str | None = None
    max_loras: Annotated[int, Field(ge=0)] = 0
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    start_timeout_s: PositiveSeconds = 600.0
    hang_timeout_s: PositiveSeconds = 30.0
    tool_call_parser: Annotated[str, Field(min_length=1)] | None = None
    reasoning_parser: Annotated[str, Field(min_length=1)] | None = None
    args: SettingsArgs = {}
    structured: StructuredLimits = StructuredLimits()
    patches: EnginePatches = EnginePatches()

    def with_overrides(self, overrides: EngineOverrides | None) -> Self:
        """What a model's engine is started with: its own settings and arguments before these."""
        if overrides is None:
            return self
        own = overrides.model_dump(exclude_none=True, exclude={"devices"})
        return self.model_copy(update=own | {"args": self.args | overrides.args})


class FilterSetting(Group):
    """One filter of requests and answers. `use`: the name of its entry point in `stepserve.filters`, or `patterns`."""

    use: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = {}


class Alias(Group, RequestModel):
    """Another name for a model, and the sampling that requests under it get unless they say otherwise.

    `model` is an id or `active`. Written as a plain string it is the model alone.
    """

    model: Annotated[str, Field(min_length=1)] = ACTIVE_ALIAS
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Count | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: list[str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: object) -> object:
        return {"model": value} if isinstance(value, str) else value


class LogSettings(Group):
    """The files in logs/. Each is rotated at `max_bytes`; `backups` old ones are kept beside it.

    `terminal`: the same lines on standard error too, for a person (`text`) or for what collects a container's output.
    """

    max_bytes: Annotated[int, Field(ge=64 * 1024)] = 64 * 1024 * 1024
    backups: Annotated[int, Field(ge=0, le=100)] = 5
    requests: bool = True
    prompts: bool = False
    terminal: Literal["off", "text", "json"] = "off"


class TelemetrySettings(Group):
    """`traces_endpoint`: an OTLP collector (http://host:4318/v1/traces); without one no trace is made."""

    interval_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    traces_endpoint: str | None = None
    traces_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0


class PowerProfile(Group):
    """A cap on every card's power, clamped to what it allows, and how many jobs may run beside each other."""

    description: str = ""
    power_limit_w: Annotated[float, Field(gt=0)] | None = None
    max_concurrent_jobs: Count = 1


class PowerWindow(Group):
    """From `start` to `end` each day (local time; over midnight when `end` is earlier) another profile holds."""

    start: ClockTime
    end: ClockTime
    profile: str

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.start == self.end:
            raise ValueError(f"start and end are both {self.start}")
        return self


class PowerSettings(Group):
    """`profile` holds until another is chosen by POST /settings/power_profile; null leaves the cards alone."""

    BUILT_IN: ClassVar[dict[str, dict[str, Any]]] = {
        "quiet": {"power_limit_w": 220, "max_concurrent_jobs": 1, "description": "little noise and heat"},
        "normal": {"power_limit_w": 280, "max_concurrent_jobs": 1, "description": "most of the speed at less power"},
        "max": {"power_limit_w": 350, "max_concurrent_jobs": 2, "description": "all that the card gives"},
    }

    profile: str | None = None
    profiles: Annotated[dict[str, PowerProfile], Field(validate_default=True)] = {}
    schedule: list[PowerWindow] = []

    @field_validator("profiles", mode="before")
    @classmethod
    def _beside_the_built_in(cls, own: Any) -> Any:
        """Own profiles stand beside the built-in ones, or change single values of them."""
        if not isinstance(own, dict):
            return own
        names = [*cls.BUILT_IN, *(name for name in own if name not in cls.BUILT_IN)]
        merged: dict[str, Any] = {}
        for name in names:
            mine = own.get(name, {})
            merged[name] = {**cls.BUILT_IN.get(name, {}), **mine} if isinstance(mine, dict) else mine
        return merged

    @model_validator(mode="after")
    def _known_profiles(self) -> Self:
        for name in (self.profile, *(window.profile for window in self.schedule)):
            if name is not None and name not in self.profiles:
                raise ValueError(f"there is no profile {name!r}; there are {', '.join(self.profiles)}")
        return self


class WeightsSettings(Group):
    """Weights that a trainer sends in phases. `update_timeout_s`: how long it may say nothing in the middle of an
    update before that is given up. `max_pause_s`: after that a pause that nobody ends is over. `persist_every`: so many
    versions of a model are one that becomes a checkpoint on disk, also where a push does not ask for it; None: none is.
    """

    update_timeout_s: PositiveSeconds = 120.0
    max_pause_s: PositiveSeconds = 300.0
    persist_every: Annotated[int, Field(ge=1)] | None = None


RunBy = Literal["nobody", "admin", "jobs"]


class TaskFileSettings(Group):
    """Task files of lm-eval and inspect-ai in `<base>/tasks`, which are programs: they run as the server's user.

    `run_by`: whose keys may have them run. `downloads`: whether they may fetch datasets from a hub. `time_limit_s`: of
    one attempt at a run. `memory_bytes`: of address space, for each process. `output_bytes`: of all that a run writes.
    """

    run_by: RunBy = "nobody"
    downloads: bool = False
    time_limit_s: PositiveSeconds = 6 * 3600.0
    memory_bytes: Annotated[int, BeforeValidator(_whole), Field(ge=256 * 1024**2)] = 16 * 1024**3
    output_bytes: Annotated[int, BeforeValidator(_whole), Field(ge=1024**2)] = 256 * 1024**2


class Settings(BaseSettings):
    """Every setting with its default. To be told in words what is wrong, use `stepserve.setting_origins.load`."""

    model_config = SettingsConfigDict(
        env_prefix="INFERENCE_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        protected_namespaces=(),
    )

    base_dir: Path = Path("~/llm")
    models_dir: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8765
    ui: bool = True
    ui_host: str = "127.0.0.1"
    ui_port: Annotated[int, Field(ge=1, le=65535)] = 8501
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    install_demo: bool = True
    model_path: Path | None = None
    model_roots: list[Path] = []
    moving_ids: list[str] = ["current_checkpoint", "latest"]
    default_chat_template: Annotated[str, Field(min_length=1)] | None = None
    hosts_file: Path | None = None

    load_in_4bit: bool = False
    load_in_8bit: bool = False
    flash_attention: bool = True
    max_loaded_models: Count | None = None
    load_on_request: bool = True
    turn_wait_s: Annotated[float, Field(ge=0)] = 30.0
    model_keep_alive: KeepAlive | None = None
    preload: list[Annotated[str, Field(min_length=1)]] = []
    model_load_cooldown_s: Annotated[float, Field(ge=0)] = 300.0
    model_q4_threshold_bytes: Annotated[int, BeforeValidator(_whole), Field(ge=0)] = 14_000_000_000
    max_concurrent_pulls: Count = 2

    aliases: dict[Annotated[str, Field(min_length=1)], Alias] = {}
    unknown_model: Literal["not_found", "active"] = "not_found"
    response_cache: Literal["off", "on_request", "on"] = "on_request"
    response_cache_bytes: Annotated[int, BeforeValidator(_whole), Field(ge=0)] = 64 * 1024 * 1024
    stored_responses: StoredResponsesSettings = StoredResponsesSettings()
    filters: list[FilterSetting] = []
    ollama_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")] = "0.12.6"

    max_file_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    max_request_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    max_dataset_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024**3
    judge_urls: list[str] = []
    judge_api_keys: dict[str, SecretStr] = {}
    webhook_hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]] = []
    max_held_requests: Annotated[int, Field(ge=0)] = 1024
    hold_timeout_s: PositiveSeconds = 300.0
    drain_timeout_s: PositiveSeconds = 30.0
    hang_timeout_s: Annotated[float, Field(ge=0)] = 120.0
    keep_alive_s: Count = 300
    engine_restart_max_delay_s: PositiveSeconds = 60.0

    proof_compute_max_bytes: Annotated[int, Field(ge=0)] = 2_000_000_000
    proof_wait_s: Annotated[float, Field(ge=0)] = 30.0
    self_check_interval_s: Annotated[float, Field(ge=0)] = 600.0

    database_url: SecretStr | None = None

    max_concurrent_jobs: Count = 1
    max_concurrent_by_type: dict[str, Annotated[int, Field(ge=0)]] = {}
    max_pending_jobs: Count = 10_000
    job_retries: Annotated[int, Field(ge=0)] = 20
    batch_items: Annotated[int, Field(ge=1, le=1024)] = 128
    batch_window_items: Count | None = None
    job_lease_s: PositiveSeconds = 15.0
    min_free_disk_bytes: Annotated[int, BeforeValidator(_whole), Field(ge=0)] = 1_000_000_000

    hf_token: SecretStr | None = None
    hub_timeout_s: Count = 10
    hub_hosts: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")]] = []

    engine: EngineSettings = EngineSettings()
    logs: LogSettings = LogSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    power: PowerSettings = PowerSettings()
    access: AccessSettings = AccessSettings()
    tls: TlsSettings = TlsSettings()
    limits: LimitSettings = LimitSettings()
    weights: WeightsSettings = WeightsSettings()
    retention: RetentionSettings = RetentionSettings()
    traffic: TrafficSettings = TrafficSettings()
    task_files: TaskFileSettings = TaskFileSettings()
    fleet: FleetSettings = FleetSettings()
    replicas: ReplicaSettings = ReplicaSettings()
    nodes: NodeSettings = NodeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by name
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The first to have a value wins; groups are merged value by value. `stepserve.setting_origins` names them."""
        file = ConfigFile(settings_cls, config_file())
        hosts = HostsFile(settings_cls, os.environ.get(HOSTS_VARIABLE) or file().get("hosts_file"))
        return (init_settings, env_settings, OlderNames(settings_cls), hosts, file)

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not url.get_secret_value().startswith(("postgresql+asyncpg://", "sqlite+aiosqlite://")):
            raise ValueError("must begin with postgresql+asyncpg:// or sqlite+aiosqlite://")
        if url is not None and url.get_secret_value().startswith("postgresql") and find_spec("asyncpg") is None:
            raise ValueError("needs the package asyncpg: it comes with the extra `postgres` of stepserve-server")
        return url

    @field_validator("hang_timeout_s")
    @classmethod
    def _longer_than_some_heartbeats(cls, seconds: float) -> float:
        if 0 < seconds < _SHORTEST_HANG_S:
            raise ValueError(f"must be 0 (never) or at least {_SHORTEST_HANG_S:g}")
        return seconds

    @field_validator("judge_urls", "judge_api_keys")
    @classmethod
    def _judges_are_urls(cls, judges: Any) -> Any:
        for url in judges:
            normal_url(url)
        return judges

    @field_validator("model_roots")
    @classmethod
    def _roots_are_absolute(cls, roots: list[Path]) -> list[Path]:
        absolute = [root.expanduser() for root in roots]
        for root in absolute:
            if not root.is_absolute():
                raise ValueError(f"{root} is not an absolute path")
        return absolute

    @field_validator("aliases")
    @classmethod
    def _aliases_name_models(cls, aliases: dict[str, Alias]) -> dict[str, Alias]:
        if ACTIVE_ALIAS in aliases:
            raise ValueError(f"{ACTIVE_ALIAS!r} always means the active model and cannot be an alias")
        for name, alias in aliases.items():
            if alias.model in aliases:
                raise ValueError(f"{name!r} stands for {alias.model!r}, which is an alias itself; name the model")
        return aliases

    @model_validator(mode="after")
    def _one_quantisation(self) -> Self:
        if self.load_in_4bit and self.load_in_8bit:
            raise ValueError("load_in_4bit and load_in_8bit exclude each other")
        return self

    @model_validator(mode="after")
    def _preload_is_possible(self) -> Self:
        limit = self.loaded_models_limit
        if limit is not None and len(self.preload) > limit:
            raise ValueError(
                f"preload names {len(self.preload)} models and max_loaded_models is {limit}, which counts the active"
                " model"
            )
        if self.preload and self.fleet.control is not None:
            raise ValueError("preload: a member of a fleet loads what is committed there, and nothing else")
        return self

    @model_validator(mode="after")
    def _default_template_is_there(self) -> Self:
        if self.default_chat_template is not None:
            try:
                template_text(self.default_chat_template, self.layout.templates, anywhere=True)
            except ValueError as error:
                raise ValueError(f"default_chat_template: {error}") from error
        return self

    @model_validator(mode="after")
    def _ui_opens_no_door(self) -> Self:
        if not is_loopback(self.ui_host) and self.access.mode == "auto":
            raise ValueError(
                f"ui_host {self.ui_host}: the web UI asks from this machine, where no key is demanded until there is"
                " one; set access.mode to keys (or to open) as well"
            )
        return self

    @model_validator(mode="after")
    def _nodes_have_one_head(self) -> Self:
        if self.nodes.address is not None and self.replicas.count > 1:
            raise ValueError(
                f"nodes.address: of {self.replicas.count} replicas on one machine only one could be the head of nodes;"
                " start one gateway for models over nodes"
            )
        return self

    @model_validator(mode="after")
    def _window_keeps_the_engine_fed(self) -> Self:
        if self.batch_window_items is not None and self.batch_window_items < 2 * self.batch_items:
            raise ValueError(
                f"batch_window_items ({self.batch_window_items}) must be at least twice batch_items"
                f" ({self.batch_items}), or the engine would wait between chunks"
            )
        return self

    @property
    def loaded_models_limit(self) -> int | None:
        """None: as many as memory holds, which is known of cards alone."""
        if self.max_loaded_models is None and is_cpu_build():
            return _LOADED_ON_CPU
        return self.max_loaded_models

    @property
    def longest_turn_wait_s(self) -> float:
        """No request is to be refused for its wait before its model had a turn."""
        return min(self.turn_wait_s, self.hold_timeout_s / 2)

    @property
    def max_sequences_per_request(self) -> int:
        """Of a request's prompts times the answers to each."""
        return self.limits.max_sequences_per_request or self.engine.max_num_seqs

    @property
    def engine_to_start(self) -> EngineSettings:
        """`flash_attention: false` asks for vLLM's Triton backend, which runs on every card that vLLM runs on."""
        if self.flash_attention or self.engine.attention_backend is not None:
            return self.engine
        return self.engine.model_copy(update={"attention_backend": "TRITON_ATTN"})

    @property
    def default_template_text(self) -> str | None:
        """Reads a file where the setting names one. Blocks. Raises ValueError when it is gone."""
        if self.default_chat_template is None:
            return None
        return template_text(self.default_chat_template, self.layout.templates, anywhere=True)

    @property
    def layout(self) -> Layout:
        base = self.base_dir.expanduser().absolute()
        models = self.models_dir.expanduser().absolute() if self.models_dir else base / "models"
        return Layout(base=base, models=models)
