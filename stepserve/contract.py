"""The private contract between gateway and control, spoken as JSON over Unix sockets.

Both sides import this module; it imports neither. A *model* is a registered checkpoint, a *slot* is a loaded one,
an *activation* is a switch. Times are seconds (`_s`) or milliseconds (`_ms`).
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepserve.engine_arguments import ModelArgs
from stepserve.request_model import RequestModel

GATEWAY_STATE_PATH = "/state"
GATEWAY_ACTIVATE_PATH = "/activate"
GATEWAY_BATCH_PATH = "/batch"
GATEWAY_CHECK_ENGINE_PATH = "/check_engine"
GATEWAY_CAPABILITIES_PATH = "/capabilities"
GATEWAY_LOAD_PATH = "/load"
GATEWAY_PROVE_PATH = "/prove"
GATEWAY_UNLOAD_PATH = "/unload"
GATEWAY_KEEP_ALIVE_PATH = "/keep-alive"
GATEWAY_USAGE_PATH = "/usage"
# On control's socket, and never handed on from the public port: what the gateway may ask.
CONTROL_LOADABLE_PATH = "/loadable"
CONTROL_METRICS_PATH = "/metrics"
GATEWAY_ASK_PATH = "/ask"

# Control's, asked by the gateway when the body of an upload comes in. In no table of public routes, so nobody else can.
OPEN_PIECE_PATH = "/uploads/open"
CLOSE_PIECE_PATH = "/uploads/close"

ACTIVE_ALIAS = "active"  # may stand for the active model wherever a model is named
MAX_BATCH_ITEMS = 1024
MAX_STOP_TEXTS = 64  # of one request, on every route and in evals
BATCH_PRIORITY = 100  # vLLM serves lower numbers first; interactive requests have 0

SwitchMethod = Literal["auto", "in_place", "blue_green", "restart"]
InFlightPolicy = Literal["finish", "keep", "abort"]
RequestClass = Literal["interactive", "batch", "probe"]
ModelTask = Literal["generate", "embed"]  # whether a model makes text, or vectors of texts
Quantize = Literal["q4", "q8", "fp16"]  # what a checkpoint is turned into when it is loaded
SlotPhase = Literal["loading", "ready", "draining", "dead", "stopped"]
# `suspect`: an answer was refused because its numbers were not finite; `failed`: the last proof was not passed.
SlotHealth = Literal["ok", "suspect", "failed"]


def id_of_repository(repository: str) -> str:
    """Ids are names of folders and parts of URLs, so the slash becomes two dashes, as in a hub's own cache."""
    return repository.replace("/", "--")


class Message(BaseModel):
    """One field per fact and nothing else: an unknown one is a mistake on the other side."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Signature(Message):
    """What a way of switching depends on, beside the weights themselves. Equal hashes mean equal content.

    `config_sha` covers config.json but for keys that change nothing (names, the writer's version, training state);
    `tokenizer_sha` the tokenizer's files and chat template; `tensors_sha` every tensor's name, dtype and shape.
    """

    architecture: str
    config_sha: str
    tokenizer_sha: str
    tensors_sha: str
    weights_bytes: int
    quantization: str | None = None


CardName = Annotated[str, Field(pattern=r"^(\d{1,3}(:\d{1,2})?|(GPU|MIG)-[0-9a-zA-Z/-]{1,80})$")]


class EngineOverrides(Message, RequestModel):
    """What a model may have otherwise than the `engine` settings say, in the engine it is loaded into.

    `args`: vLLM's engine arguments by their names (stepserve.engine_arguments says which). `devices`: the cards that it
    may go on, by number (`0`, a part of one `0:1`) or id.
    """

    max_model_len: Annotated[int, Field(ge=1)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1, le=4096)] | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    cpu_kv_cache_gib: Annotated[int, Field(ge=1)] | None = None
    tool_call_parser: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    reasoning_parser: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    devices: Annotated[list[CardName], Field(min_length=1, max_length=64)] | None = None
    args: ModelArgs = {}

    def written(self) -> dict[str, Any]:
        """What was given, and nothing else, as JSON values."""
        return self.model_dump(mode="json", exclude_none=True, exclude={"args"}) | (
            {"args": self.args} if self.args else {}
        )


class ModelRef(Message):
    """A registered checkpoint as the gateway needs it: `path` is absolute, `digest` is `sha256:<hex>`.

    With `base` it is a LoRA adapter on that checkpoint, and `digest` stands for both. `chat_template` is Jinja text in
    the place of the checkpoint's own.
    """

    id: str
    path: str
    digest: str
    signature: Signature | None = None
    quantize: Quantize | None = None
    base: "ModelRef | None" = None
    engine: EngineOverrides | None = None
    chat_template: str | None = None

    def is_loaded_as(self, other: "ModelRef") -> bool:
        """The same content in an engine that is started the same way."""
        return (self.digest, self.engine, self.chat_template) == (other.digest, other.engine, other.chat_template)


class Capabilities(Message):
    """What this vLLM can do on this device.

    `architectures` are those it has code of its own for, `model_types` those whose config.json can be read without the
    checkpoint's own code. `quantize` gives for each possible wish what vLLM calls it; `prequantized` are the values of
    `quant_method` that it can serve. `memory_bytes` is all of the memory where weights go.
    """

    device: str
    memory_bytes: int
    architectures: list[str]
    model_types: list[str]
    quantize: dict[Quantize, str]
    prequantized: list[str]


class CheckEngineRequest(Message):
    """Whether vLLM would take what a model's engine is to be started with; nothing is started.

    `path` is the checkpoint's folder. Without it only names and values are checked, not whether they suit a model.
    """

    engine: EngineOverrides
    path: str | None = None


class CheckedEngine(Message):
    """`refusal`: a sentence that names the argument; None: it would be taken."""

    refusal: str | None = None


class Encoding(Message):
    """The tokens that the checkpoint's tokenizer makes of a `text`, with its special tokens, or that it and the chat
    template make of `messages` that wait for an answer.
    """

    text: str | None = None
    messages: list[dict[str, str]] | None = None
    token_ids: list[int]


class Reference(Message):
    """What a checkpoint must say of a few prompts, from its trainer (`reference`) or computed here (`computed`).

    Exactly one of `prompts` and `prompt_token_ids` is given. `logprobs[i][j]` is the natural log-probability of token
    j + 1 of prompt i after the tokens before it: [n_prompts][n_tokens - 1]. `noise`: how far apart, in nats and on
    average, a right model is that computes in bfloat16, if that was measured. `encodings` must come out the same.
    """

    kind: Literal["reference", "computed"]
    prompts: list[str] | None = None
    prompt_token_ids: list[list[int]] | None = None
    logprobs: list[list[float]]
    noise: float | None = None
    encodings: list[Encoding] | None = None


EXIT_BROKEN_CHECKPOINT = 65
"""How stepserve.reference_program ends when the checkpoint is at fault, of which it then says a line (EX_DATAERR)."""


class RegisteredModel(Message):
    """A model that a request may name; `repository` is the hub's name of one that was pulled and answers to it too."""

    id: str
    created_s: int  # Unix time
    repository: str | None = None


class RegisteredModels(Message):
    """Newest first."""

    models: list[RegisteredModel]


class ActivateRequest(Message):
    """`keep_alive_s`: as in `LoadRequest`; it counts once another model is active."""

    model: ModelRef
    reference: Reference | None = None
    base_reference: Reference | None = None  # of an adapter's base, should it have to be loaded first
    method: SwitchMethod = "auto"
    in_flight: InFlightPolicy = "finish"
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 300.0
    keep_alive_s: float | None = None


class ProveRequest(Message):
    """The active model, which is to be proved as it serves; without `reference` by the one that the gateway has."""

    model: ModelRef
    reference: Reference | None = None


class LoadRequest(Message):
    """A model to be loaded beside the active one, and what it is to be proved by.

    `wait`: for a slot to become idle that could leave for it; else it is refused when none is. `evicts`: an idle one
    may leave for it. `keep_alive_s` is what the model, or an adapter's base, is registered with; None: nothing.
    """

    model: ModelRef
    reference: Reference | None = None
    base_reference: Reference | None = None
    wait: bool = True
    evicts: bool = True
    keep_alive_s: float | None = None


class UnloadRequest(Message):
    """A model that is to leave if it is loaded beside the active one; what is inside may finish.

    `forced`: also where it is a canary's candidate, since it is not registered any more.
    """

    id: str
    forced: bool = False


class KeepAliveRequest(Message):
    """What a model is registered with from now on: for how long it stays loaded when nobody uses it; None: nothing."""

    id: str
    keep_alive_s: float | None


class Loaded(Message):
    """What is so now of the model that was to be loaded or to leave."""

    id: str
    loaded: bool


class Proof(Message):
    """What was checked on the candidate before it was allowed to serve; differences are of natural log-probabilities.

    The mean over all `tokens` that were compared is held to `tolerance`. `weak`: only that answers are finite and not
    constant, and `why` no more was. `changed`, of a push alone: that, and that the answers are others than before where
    most tensors are. `reason`: what a proof that is not passed found.
    """

    kind: Literal["reference", "computed", "weak", "changed"]
    prompts: int
    tokens: int | None = None
    max_abs_diff: float | None = None
    mean_abs_diff: float | None = None
    tolerance: float | None = None
    passed: bool
    reason: str | None = None
    why: str | None = None


class MemberSwitch(Message):
    """How a switch went on one gateway of a fleet. `error`: why it does not serve the model."""

    id: str
    method: str
    paused_ms: float
    proof: Proof | None = None
    error: str | None = None


class ActivateResult(Message):
    """How a switch ended. A failed one says what serves instead (`rolled_back_to`; None: nothing does).

    `paused_ms`: how long no request was being answered though one could have been; `held_ms`: how long new requests had
    to wait, which includes the drain. `total_ms`: how long the caller waited, of which `reference_wait_ms` for the
    model's reference to be computed; from the gateway, the switch alone. `gateways`: on a fleet, how it went on each.
    """

    status: Literal["activated", "failed"]
    id: str
    previous: str | None
    method: Literal["in_place", "blue_green", "restart", "adapter", "push", "none"]
    paused_ms: float
    held_ms: float = 0.0
    total_ms: float
    reference_wait_ms: float = 0.0
    in_flight: int
    proof: Proof | None = None
    error: str | None = None
    rolled_back_to: str | None = None
    gateways: list[MemberSwitch] = []

    def shown(self) -> dict[str, Any]:
        """As an answer has it that was a success; `gateways` on a fleet alone."""
        left_out = {"error", "rolled_back_to"} if self.gateways else {"error", "rolled_back_to", "gateways"}
        return self.model_dump(exclude=left_out)


class WeightsVersion(Message):
    """Which weights a model answers with. `number` 0: those of its registered files, 1 and more: a push's; a model's
    pushes have numbers that only grow. `label`: the trainer's own name.
    """

    number: int = 0
    label: str | None = None


class Placement(Message):
    """Which cards an engine is on, as CUDA names them, and what it holds of each.

    `kv_cache_bytes`: None: what vLLM finds left in `share`, which is of the whole card. `by`: who said so: the plan, or
    the setting or argument that somebody has given. `why`: the plan could not be made.
    """

    devices: list[str]
    bytes_each: int
    kv_cache_bytes: int | None
    share: float
    by: Literal["plan", "kv_cache_memory_bytes", "gpu_memory_utilization"] = "plan"
    why: str | None = None


class SlotState(Message):
    """`active`: the slot of the active model; the others are loaded beside it, or on their way out.

    `model.digest` is of the weights that answer: of a pushed `version` another one than of the registered files.

    `fault` says why `health` is not `ok`; `proved_at` (ISO 8601, UTC) is when the last proof ended. `model_runner`:
    which of vLLM's two implementations computes, `V1` or `V2`. `placement`: None without a card.
    """

    model: ModelRef
    phase: SlotPhase
    health: SlotHealth = "ok"
    fault: str | None = None
    proved_at: str | None = None
    active: bool = False
    in_flight: int
    load_duration_s: float | None
    max_model_len_tokens: int | None
    task: ModelTask = "generate"
    model_runner: str | None = None
    version: WeightsVersion = WeightsVersion()
    placement: Placement | None = None


class FailedLoad(Message):
    id: str
    digest: str | None = None
    error: str
    failed_at: str
    retry_in_s: float


class EngineDeath(Message):
    """`number` counts the deaths since the gateway's start; `active`: the active model's died. `at`: ISO 8601, UTC."""

    number: int
    model_id: str
    active: bool
    at: str


class GatewayState(Message):
    """A snapshot of the pool; `boot_id` differs between two starts of the gateway. `deaths` has the last few.

    `active` is what the last switch led to, with the digest of its files also while pushed weights serve in its place.
    `paused`: a trainer has paused it, and requests wait.
    """

    boot_id: str
    pid: int
    active: ModelRef | None
    switching_to: str | None
    slots: list[SlotState]
    held: int
    failed_loads: list[FailedLoad] = []
    deaths: list[EngineDeath] = []
    paused: bool = False

    @property
    def pushed(self) -> WeightsVersion | None:
        """The version of the active model, where it is no longer that of its files."""
        return next((slot.version for slot in self.slots if slot.active and slot.version.number), None)


class ChatMessage(BaseModel):
    """Passed to the model's chat template as it is, so further keys (`name`, `tool_calls` …) are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    role: str
    content: str


class BatchSampling(Message):
    """`json_schema`: the answer is held to this JSON schema while it is generated."""

    max_tokens: Annotated[int, Field(ge=1)] = 256
    temperature: Annotated[float, Field(ge=0)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    stop: list[str] = []
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=256)] = 1
    json_schema: dict[str, Any] | None = None


class Continuations(Message):
    """Texts whose log-probability is wanted, each after the same prompt, which is not the item's own."""

    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    texts: Annotated[list[str], Field(min_length=1, max_length=64)]


class BatchItem(Message):
    """One generation of a batch: `messages` go through the chat template, `prompt` is taken as it is.

    With `reference` the item is also scored: the log-probability of the reference's tokens after the prompt. After a
    plain prompt, texts are tokenized together with it, as they would be in a document. `generate` false: nothing but
    scores is wanted. `sampling` takes the place of the request's.
    """

    messages: list[ChatMessage] | None = None
    prompt: str | None = None
    reference: str | None = None
    sampling: BatchSampling | None = None
    continuations: Continuations | None = None
    generate: bool = True


class BatchRequest(Message):
    """Asks the slot of `model` for every item; `digest` must be the one that slot serves, or the answer is a 409;
    None takes whatever it serves."""

    model: str
    digest: str | None
    sampling: BatchSampling = BatchSampling()
    items: Annotated[list[BatchItem], Field(min_length=1, max_length=MAX_BATCH_ITEMS)]


class Completion(Message):
    """One of several answers to the same prompt."""

    text: str
    finish_reason: str | None
    completion_tokens: int


class TextScore(Message):
    """The log-probability of a text, the sum over its `tokens` (natural logarithm); null where it does not fit."""

    logprob: float | None
    tokens: int


class BatchOutput(Message):
    """The answer to the item of the same position. `error` set: that item failed and every other field is empty.

    `reference_logprob` is the sum over `reference_tokens` tokens (natural logarithm). `text`, `finish_reason` are the
    first answer's where `n` were asked for; `completions` has all of them then, and `completion_tokens` is their sum.
    `continuations` has an entry a text. `too_long`: the error is that the prompt leaves no room in the context.
    `model_version`: the number of the weights that answered, put in by who asked.
    """

    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency_s: float = 0.0
    reference_logprob: float | None = None
    reference_tokens: int = 0
    completions: list[Completion] = []
    continuations: list[TextScore] = []
    error: str | None = None
    too_long: bool = False
    model_version: int = 0


class AskItem(Message):
    """One request as a client would send it: `path` is `/v1/chat/completions`, `/generate` …"""

    path: str
    body: dict[str, Any]


class AskRequest(Message):
    """Has a model answer whole requests below interactive ones; `digest` as in BatchRequest. `model` in a body chooses
    an alias's preset, not the model.
    """

    model: str
    digest: str
    items: Annotated[list[AskItem], Field(min_length=1, max_length=MAX_BATCH_ITEMS)]


class AskOutput(Message):
    status: int
    body: Any


class AskResult(Message):
    """`outputs` has one entry an item, in the items' order: [n_items]."""

    model: str
    digest: str
    outputs: list[AskOutput]


class BatchResult(Message):
    """`outputs` has one entry an item, in the items' order: [n_items]. `version`: of the weights, its number."""

    model: str
    digest: str
    version: int = 0
    outputs: list[BatchOutput]


class ModelUsage(Message):
    """Finished generations since the gateway started; `busy_s` adds up how long each was in the engine."""

    model: str
    request_class: RequestClass
    requests: int
    prompt_tokens: int
    completion_tokens: int
    busy_s: float


class JobUsage(Message):
    job_id: str
    prompt_tokens: int
    completion_tokens: int
    busy_s: float


class UsageReport(Message):
    """`boot_id` differs between two starts of the gateway, after which all counts begin anew."""

    boot_id: str
    in_flight: int
    models: list[ModelUsage]
    jobs: list[JobUsage]
