"""The one table of public routes: who answers each, what it demands, and in which words it refuses.

Gateway and control both read it: dispatch, access, error envelopes, the labels of metrics, /openapi.json, the audit log
and the names that no tier may have are derived from it, and none of them has a list of its own. A path that is not here
is not public. A dialect of another package adds its routes at start (`install`). Pure: nothing is imported but types.

A *family* is a path and all that lies below it. Its rows have its facts unless they say otherwise, and a path below it
that is no route is refused by the same facts, so that a caller learns no more of it than of its neighbours.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from stepserve.access import Demand
from stepserve.deprecation import Deprecation

Owner = Literal["slot", "control", "gateway", "upstream"]
"""`slot`: vLLM's own app; `upstream`: another host; `gateway`: answered here; `control`: the sidecar."""
Envelope = Literal["openai", "anthropic", "ollama", "native"]
Body = Literal["request", "dataset", "file", "upload", "weights"]
"""What bounds the body: the setting max_request_bytes, max_dataset_bytes or max_file_bytes; of an upload its piece, of
weights the size of the model that they are for.
"""
Time = Literal["answer", "open"]
"""`answer`: the time limits of requests and streams; `open`: as long as it takes, while its key is valid."""

OTHER = "other"
"""The label of everything that is not in the table."""

_READS = frozenset({"GET", "HEAD"})
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True, slots=True)
class Row:
    """One public route. `path` is in Starlette's notation; `methods` are all that it takes there.

    `label` is the route's name in metrics and logs; a `quiet` one is neither logged nor traced. A route that will be
    removed has its `deprecation`, which every answer of it carries as headers.
    """

    path: str
    methods: tuple[str, ...]
    owner: Owner
    scope: Demand
    label: str
    envelope: Envelope
    body: Body = "request"
    time: Time = "open"
    quiet: bool = False
    deprecation: Deprecation | None = None

    @property
    def path_format(self) -> str:
        """The path as OpenAPI writes it: `/v1/models/{name}`."""
        return _PARAMETER.sub(r"{\1}", self.path)


@dataclass(frozen=True, slots=True)
class Match:
    """What the table says of a request. `row` is None where there is no such route; then `allow` has the methods that
    the path takes, none where there is no such path.
    """

    row: Row | None
    scope: Demand
    label: str
    envelope: Envelope
    allow: tuple[str, ...] = ()
    quiet: bool = False
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Family:
    """`reads`: what GET and HEAD demand, where that is less than `scope`. `label` None: each path is its own label."""

    prefix: str
    scope: Demand
    owner: Owner
    envelope: Envelope = "native"
    reads: Demand | None = None
    label: str | None = None
    quiet: bool = False

    def demand(self, method: str) -> Demand:
        return self.reads if self.reads is not None and method in _READS else self.scope

    def row(
        self,
        path: str,
        methods: str,
        *,
        owner: Owner | None = None,
        scope: Demand | None = None,
        envelope: Envelope | None = None,
        body: Body = "request",
        time: Time = "open",
        deprecation: Deprecation | None = None,
    ) -> Row:
        owner = owner or self.owner
        names = methods.split()
        if "GET" in names and owner in {"gateway", "upstream"}:  # the others' frameworks take a HEAD where told
            names.append("HEAD")
        label = self.label or path.partition("/{")[0] or path
        scope = scope or self.demand(names[0])
        envelope = envelope or self.envelope
        return Row(path, tuple(names), owner, scope, label, envelope, body, time, self.quiet, deprecation)


def _own(prefix: str, scope: Demand, *, reads: Demand | None = None, quiet: bool = False) -> _Family:
    return _Family(prefix, scope, "gateway", reads=reads, label=prefix, quiet=quiet)


def _controls(prefix: str, scope: Demand, *, reads: Demand | None = None, envelope: Envelope = "native") -> _Family:
    return _Family(prefix, scope, "control", envelope, reads=reads, label=prefix)


def _probe(path: str, *, quiet: bool = True) -> list[Row]:
    """Anybody may ask it; the key decides how much it says."""
    return [_own(path, "admin", quiet=quiet).row(path, "GET", scope="open")]


def _shown(path: str) -> list[Row]:
    return [_own(path, "admin", reads="any").row(path, "GET")]


_V1 = _Family("/v1", "infer", "slot", "openai")
_CONVERSATIONS = _controls("/v1/conversations", "infer", envelope="openai")
_API = _Family("/api", "infer", "gateway", "ollama")
_INFERENCE = _Family("/inference", "infer", "gateway", "openai")
_TOKENS = tuple(_Family(path, "infer", "slot", "openai", label=path) for path in ("/tokenize", "/detokenize"))
_MODELS = _controls("/models", "admin", reads="any")
_JOBS = _controls("/jobs", "jobs")
_EVAL = _controls("/eval", "jobs")
_PROMOTIONS = _controls("/promotions", "jobs")
_DATA_GEN = _controls("/data_gen", "jobs")
_DATASETS = _controls("/datasets", "jobs")
_SHARDS = _controls("/shards", "jobs")
_POLICIES = _controls("/policies", "admin", reads="jobs")
_KEYS = _controls("/keys", "admin")
_TRAFFIC = _controls("/traffic", "infer")
_WEBHOOKS = _controls("/webhooks", "admin")
_FLEET = _controls("/fleet", "fleet")
_FLEET_SIGNS = _Family("/fleet", "fleet", "control", label="/fleet", quiet=True)  # of life, from every member
_FILES = _controls("/v1/files", "jobs", envelope="openai")
_BATCHES = _controls("/v1/batches", "jobs", envelope="openai")

ROWS: tuple[Row, ...] = (
    # vLLM's own. Whatever else its app has (/health, /metrics, /scale_elastic_ep, /invocations …) is out of reach.
    _V1.row("/v1/chat/completions", "POST", time="answer"),
    _V1.row("/v1/chat/completions/render", "POST", time="answer"),
    _V1.row("/v1/completions", "POST", time="answer"),
    _V1.row("/v1/completions/render", "POST", time="answer"),
    _V1.row("/v1/responses", "POST", time="answer"),
    _V1.row("/v1/responses/{response_id}", "GET DELETE", owner="control"),
    _V1.row("/v1/responses/{response_id}/cancel", "POST", owner="control"),
    _V1.row("/v1/responses/{response_id}/input_items", "GET", owner="control"),
    _CONVERSATIONS.row("/v1/conversations", "POST"),
    _CONVERSATIONS.row("/v1/conversations/{conversation_id}", "GET POST DELETE"),
    _CONVERSATIONS.row("/v1/conversations/{conversation_id}/items", "GET POST"),
    _CONVERSATIONS.row("/v1/conversations/{conversation_id}/items/{item_id}", "GET DELETE"),
    _V1.row("/v1/messages", "POST", envelope="anthropic", time="answer"),
    _V1.row("/v1/messages/count_tokens", "POST", envelope="anthropic", time="answer"),
    _V1.row("/v1/embeddings", "POST", time="answer"),
    *(family.row(family.prefix, "POST", time="answer") for family in _TOKENS),
    # Answered here, of what is loaded.
    _V1.row("/v1/models", "GET", owner="gateway"),
    _V1.row("/v1/models/{name:path}", "GET", owner="gateway"),
    *(
        _own(path, "infer").row(route, "POST", time="answer")
        for path, route in (
            ("/generate", "/generate"), ("/chat", "/chat"), ("/solve", "/solve/math"), ("/solve", "/solve/coding"),
        )
    ),
    _INFERENCE.row("/inference/v1/generate", "POST", time="answer"),
    _API.row("/api/chat", "POST", time="answer"),
    _API.row("/api/generate", "POST", time="answer"),
    _API.row("/api/embed", "POST", time="answer"),
    _API.row("/api/embeddings", "POST", time="answer"),
    _API.row("/api/show", "POST", time="answer"),
    _API.row("/api/tags", "GET"),
    _API.row("/api/ps", "GET"),
    _API.row("/api/version", "GET"),
    _API.row("/api/pull", "POST", scope="admin"),
    _API.row("/api/create", "POST", scope="admin"),
    _API.row("/api/copy", "POST", scope="admin"),
    _API.row("/api/delete", "DELETE", scope="admin"),
    Row("/", ("GET", "HEAD"), "gateway", "open", "/", "ollama"),
    *_probe("/livez"), *_probe("/readyz"), *_probe("/health"), *_probe("/ui", quiet=False),
    *_shown("/info"), *_shown("/version"), *_shown("/status"), *_shown("/diag"), *_shown("/openapi.json"),
    *_shown("/docs"),
    _own("/metrics", "metrics", quiet=True).row("/metrics", "GET"),
    _own("/config", "admin").row("/config", "GET"),
    _own("/config", "admin").row("/config/reload", "POST"),
    *_shown("/aliases"),
    _own("/aliases", "admin", reads="any").row("/aliases/{name:path}", "GET"),
    _own("/aliases", "admin").row("/aliases/{name:path}", "PUT DELETE"),
    # Control's.
    _MODELS.row("/models", "GET"),
    _MODELS.row("/models/register", "POST"),
    _MODELS.row("/models/active", "GET"),
    _MODELS.row("/models/set_active", "POST"),
    _MODELS.row("/models/rollback", "POST"),
    _MODELS.row("/models/activations", "GET"),
    _MODELS.row("/models/{model_id}", "GET"),
    _MODELS.row("/models/{model_id}", "PATCH"),
    _MODELS.row("/models/{model_id}", "DELETE"),
    _MODELS.row("/models/{model_id}/unload", "POST"),
    _MODELS.row("/models/{model_id}/files", "GET"),
    _MODELS.row("/models/{model_id}/files", "POST DELETE"),
    _MODELS.row("/models/{model_id}/files/{name:path}", "POST"),
    _MODELS.row("/models/{model_id}/files/{name:path}", "PUT", owner="gateway", body="upload"),
    _MODELS.row("/models/{model_id}/weights", "GET PUT", owner="gateway", scope="weights", body="weights"),
    # vLLM's names for updates of weights in phases.
    *(
        _own(path, "weights").row(path, method)
        for path, method in (
            ("/pause", "POST"), ("/resume", "POST"), ("/is_paused", "GET"), ("/weight_info", "GET"),
            ("/server_info", "GET"), ("/get_world_size", "GET"), ("/reset_prefix_cache", "POST"),
            ("/init_weight_transfer_engine", "POST"), ("/shutdown_weight_transfer_engine", "POST"),
            ("/start_weight_update", "POST"), ("/finish_weight_update", "POST"),
        )
    ),
    _own("/update_weights", "weights").row("/update_weights", "POST", body="weights"),
    _JOBS.row("/jobs", "GET"),
    _JOBS.row("/jobs/stats", "GET"),
    _JOBS.row("/jobs/{job_id}", "GET"),
    _JOBS.row("/jobs/{job_id}/events", "GET"),
    _JOBS.row("/jobs/{job_id}/cancel", "POST"),
    _JOBS.row("/jobs/{job_id}/retry", "POST"),
    _EVAL.row("/eval/jobs", "POST"),
    _EVAL.row("/eval/jobs/{job_id}", "GET"),
    _EVAL.row("/eval/jobs/{job_id}/samples", "GET"),
    _EVAL.row("/eval/jobs/{job_id}/report", "GET"),
    _EVAL.row("/eval/jobs/{job_id}/flaky", "GET"),
    _EVAL.row("/eval/jobs/{job_id}/export", "GET"),
    _EVAL.row("/eval/imports", "POST"),
    _EVAL.row("/eval/tasks", "GET"),
    _EVAL.row("/eval/tasks", "POST"),
    _EVAL.row("/eval/jobs/{job_id}/rescore", "POST"),
    _EVAL.row("/eval/compare", "GET"),
    _EVAL.row("/eval/history", "GET"),
    _PROMOTIONS.row("/promotions", "POST"),
    _PROMOTIONS.row("/promotions/{job_id}", "GET"),
    _PROMOTIONS.row("/promotions/{job_id}/report", "GET"),
    _DATA_GEN.row("/data_gen/jobs", "POST"),
    _DATA_GEN.row("/data_gen/jobs/{job_id}", "GET"),
    _DATA_GEN.row("/data_gen/jobs/{job_id}/shards/{name:path}", "GET HEAD"),
    _DATA_GEN.row("/data_gen/jobs/{job_id}/files/{name}", "GET"),
    _DATA_GEN.row("/data_gen/jobs/{job_id}/report", "GET"),
    _DATA_GEN.row("/data_gen/jobs/{job_id}/rejected", "GET"),
    _DATA_GEN.row("/data_gen/pipelines/preview", "POST"),
    _DATASETS.row("/datasets", "GET"),
    _DATASETS.row("/datasets/{name:path}/versions", "GET"),
    _DATASETS.row("/datasets/{name:path}/contamination", "GET"),
    _DATASETS.row("/datasets/{name:path}", "GET"),
    _DATASETS.row("/datasets/{name:path}", "PUT", body="dataset"),
    _DATASETS.row("/datasets/{name:path}", "DELETE"),
    _SHARDS.row("/shards", "GET"),
    _SHARDS.row("/shards/claim", "POST"),
    _SHARDS.row("/shards/{name}", "GET HEAD"),
    _SHARDS.row("/shards/{name}/ack", "POST"),
    _SHARDS.row("/shards/{name}/nack", "POST"),
    _FILES.row("/v1/files", "GET"),
    _FILES.row("/v1/files", "POST", body="file"),
    _FILES.row("/v1/files/{file_id}", "GET DELETE"),
    _FILES.row("/v1/files/{file_id}/content", "GET"),
    _BATCHES.row("/v1/batches", "GET POST"),
    _BATCHES.row("/v1/batches/{batch_id}", "GET"),
    _BATCHES.row("/v1/batches/{batch_id}/cancel", "POST"),
    _KEYS.row("/keys", "GET POST"),
    _KEYS.row("/keys/{key_id}", "GET DELETE"),
    _own("/feedback", "infer").row("/feedback", "POST"),
    _TRAFFIC.row("/traffic/consent", "GET PUT"),
    _TRAFFIC.row("/traffic/requests", "GET DELETE"),
    _TRAFFIC.row("/traffic/requests/{request_id:path}", "GET DELETE"),
    _TRAFFIC.row("/traffic/datasets", "POST", scope="jobs"),
    _controls("/audit", "admin").row("/audit", "GET"),
    _POLICIES.row("/policies", "GET"),
    _POLICIES.row("/policies/{name}", "GET"),
    _POLICIES.row("/policies/{name}", "PUT DELETE"),
    _POLICIES.row("/policies/{name}/dry_run", "POST", scope="jobs"),
    _WEBHOOKS.row("/webhooks", "GET"),
    _WEBHOOKS.row("/webhooks/deliveries", "GET"),
    _WEBHOOKS.row("/webhooks/deliveries/{delivery_id}/retry", "POST"),
    _WEBHOOKS.row("/webhooks/{name}", "PUT DELETE"),
    _WEBHOOKS.row("/webhooks/{name}/test", "POST"),
    _FLEET.row("/fleet", "GET"),
    _FLEET.row("/fleet/join", "POST"),
    _FLEET_SIGNS.row("/fleet/heartbeat", "POST"),
    _FLEET_SIGNS.row("/fleet/keys", "POST"),
    _FLEET.row("/fleet/files/{model_id}", "GET"),
    _FLEET.row("/fleet/files/{model_id}/{name:path}", "GET"),
    _FLEET.row("/fleet/{member_id}", "DELETE"),
    _FLEET.row("/fleet/{member_id}/drain", "POST"),
    _FLEET.row("/fleet/{member_id}/cordon", "POST"),
    _FLEET.row("/fleet/{member_id}/uncordon", "POST"),
    _controls("/gpu", "admin", reads="any").row("/gpu", "GET"),
    _controls("/system", "admin", reads="any").row("/system", "GET"),
    _controls("/history", "metrics").row("/history", "GET"),
    _controls("/settings", "admin").row("/settings/power_profile", "GET POST"),
    _controls("/logs", "admin").row("/logs/{component}", "GET"),
    _controls("/pull", "admin").row("/pull", "POST"),
)  # fmt: skip

# Below the path of a tier, in `/{tier}/v1/…`; each counts as the route that it stands for.
TIER_ROWS: tuple[Row, ...] = tuple(
    Row("/{tier}" + row.path, row.methods, "upstream", "infer", row.label, row.envelope, time=row.time)
    for row in ROWS
    if row.path
    in {
        "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens",
        "/v1/embeddings", "/v1/models", "/v1/models/{name:path}",
    }
)  # fmt: skip

_OF_TRAINERS = (
    "pause", "resume", "is_paused", "weight_info", "server_info", "get_world_size", "reset_prefix_cache",
    "init_weight_transfer_engine", "shutdown_weight_transfer_engine", "start_weight_update", "update_weights",
    "finish_weight_update",
)  # fmt: skip
_OLLAMA_CHANGES = ("pull", "create", "copy", "delete", "push", "blobs")

# Whom a path belongs to that is no route, the first one that it equals or lies below. `admin` may know of any other.
_FAMILIES: tuple[_Family, ...] = (
    # What changes models in Ollama's API, and is not served here, is nothing to try with a key for inference.
    *(_Family(f"/api/{name}", "admin", "gateway", "ollama") for name in _OLLAMA_CHANGES),
    _FILES, _BATCHES, _CONVERSATIONS, _V1, _API, _INFERENCE, *_TOKENS, _MODELS, _JOBS, _EVAL, _PROMOTIONS, _DATA_GEN,
    _DATASETS, _SHARDS, _KEYS, _TRAFFIC, _WEBHOOKS, _POLICIES, _FLEET,
    _own("/generate", "infer"), _own("/chat", "infer"), _own("/solve", "infer"),
    _own("/metrics", "metrics", quiet=True),
    *(_own(path, "admin", reads="any") for path in ("/info", "/version", "/status", "/diag", "/openapi.json", "/docs")),
    _own("/aliases", "admin", reads="any"), _own("/feedback", "infer"),
    *(_own(path, "admin", quiet=True) for path in ("/livez", "/readyz", "/health")),
    _own("/ui", "admin"), _own("/config", "admin"),
    *(_own(f"/{name}", "weights") for name in _OF_TRAINERS),
    *(_controls(path, "admin", reads="any") for path in ("/gpu", "/system")), _controls("/history", "metrics"),
    *(_controls(path, "admin") for path in ("/audit", "/settings", "/logs", "/pull")),
)  # fmt: skip
_TIERS = _Family("/{tier}/v1", "infer", "upstream", "openai")
_NOBODYS = _Family("", "admin", "gateway", label=OTHER)

OWN_NAMES = frozenset(family.prefix.split("/")[1] for family in _FAMILIES)
"""The first segments of this server's own paths."""

_PREFIX = re.compile(r"/[a-z0-9][a-z0-9_-]*")
_INSTALLED: dict[str, _Family] = {}


def install(
    prefix: str, envelope: Envelope, routes: Iterable[tuple[str, str]], deprecation: Deprecation | None = None
) -> None:
    """Adds the family of an installed dialect: inference routes, methods and paths without parameters, below `prefix`.

    The same prefix again replaces what it had. Raises ValueError for what may not be added.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"prefix {prefix!r} must be a path of one segment, such as /cohere")
    if prefix[1:] in OWN_NAMES:
        raise ValueError(f"prefix {prefix!r} is this server's own")
    family = _Family(prefix, "infer", "gateway", envelope, label=prefix)
    methods: dict[str, list[str]] = {}
    for method, path in routes:
        if not _is_below(path, prefix) or "{" in path:
            raise ValueError(f"{method} {path} must be a path without parameters below {prefix}")
        methods.setdefault(path, []).append(method)
    _INSTALLED[prefix] = family
    for path in [path for path in _FIXED if _is_below(path, prefix)]:
        del _FIXED[path]
    for path, names in methods.items():
        row = family.row(path, " ".join(names), time="answer", deprecation=deprecation)
        _FIXED[path] = _Place(family, {method: _match_of(row, {}) for method in row.methods})


def is_own_name(name: str) -> bool:
    """Whether this server's own paths begin so; no tier can be called that."""
    return name in OWN_NAMES or f"/{name}" in _INSTALLED


def tier_in(path: str) -> str | None:
    """`fast` for `/fast/v1/…`; None where no tier can be meant."""
    head, _, rest = path[1:].partition("/")
    return head if head and not is_own_name(head) and (rest == "v1" or rest.startswith("v1/")) else None


def normalised(path: str) -> str:
    """The path without the one slash that may stand at its end: `/v1/models/` is `/v1/models`."""
    return path[:-1] if len(path) > 1 and path[-1] == "/" else path


def match(method: str, path: str) -> Match:
    """What the table says of a request for a normalised path."""
    place = _FIXED.get(path)
    if place is None:
        place = _Place.of(path)
    found = place.matches.get(method)
    return found if found is not None else place.refused(method)


def demand(method: str, path: str) -> Demand:
    """What a request needs. A path that nobody thought of needs `admin`."""
    return match(method, path).scope


@dataclass(frozen=True, slots=True)
class _Place:
    """One path and the routes that it is."""

    family: _Family
    matches: dict[str, Match]

    @classmethod
    def of(cls, path: str) -> "_Place":
        tier = tier_in(path)
        if tier is not None:
            family, patterns = _TIERS, _TIER_PATTERNS
        else:
            families = (*_FAMILIES, *_INSTALLED.values())
            family = next((each for each in families if _is_below(path, each.prefix)), _NOBODYS)
            patterns = _PATTERNS.get(path[1:].partition("/")[0], [])
        matches: dict[str, Match] = {}
        for pattern, row in patterns:
            if (found := pattern.fullmatch(path)) is not None:
                for method in row.methods:
                    matches.setdefault(method, _match_of(row, found.groupdict()))
        return cls(family, matches)

    def refused(self, method: str) -> Match:
        scope = self.family.demand(method)
        allow = tuple(self.matches)
        if allow:
            beside = next(iter(self.matches.values()))
            return Match(None, scope, beside.label, beside.envelope, allow, beside.quiet)
        return Match(None, scope, self.family.label or OTHER, self.family.envelope, (), self.family.quiet)


def _match_of(row: Row, params: Mapping[str, str]) -> Match:
    return Match(row, row.scope, row.label, row.envelope, row.methods, row.quiet, params)


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix + "/")


def _pattern(row: Row) -> tuple[re.Pattern[str], Row]:
    text = re.escape(row.path).replace(r"\{", "{").replace(r"\}", "}")
    return re.compile(_PARAMETER.sub(lambda found: f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})", text)), row


def _patterns(rows: tuple[Row, ...]) -> Iterator[tuple[str, tuple[re.Pattern[str], Row]]]:
    for row in sorted(rows, key=lambda row: "{" in row.path):  # fixed paths come first
        yield row.path[1:].partition("/")[0], _pattern(row)


_PATTERNS: dict[str, list[tuple[re.Pattern[str], Row]]] = {}
for _head, _each in _patterns(ROWS):
    _PATTERNS.setdefault(_head, []).append(_each)
_TIER_PATTERNS = [each for _, each in _patterns(TIER_ROWS)]
_FIXED = {row.path: _Place.of(row.path) for row in ROWS if "{" not in row.path}
