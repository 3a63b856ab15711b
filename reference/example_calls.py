"""The calls behind docs/reference/examples.md, in an order in which a fresh server with the demo models answers all.

`{name}` in a path or a body is what an earlier call saved under that name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CHECKPOINT = "demo-step-1500"
EARLY = "early"
EARLY_FILES = "step-0300"
"""The folder of demo/checkpoints that is put under models/ as `EARLY` before the first call."""
EXAM = "math_eval.jsonl"
TRAINED = "additions.jsonl"


@dataclass(frozen=True, slots=True)
class Call:
    """`route` is how the document names it; `path`, where that differs, what is asked.

    `body` is sent as JSON, `text` as it is.
    `saved` maps a name to where the answer has its value: keys and indices with dots between them, or `header:NAME`.
    `until_done`: asked again until `status` is an end. `form`: fields of a multipart form, of which `file` is `text`.
    `shown` False: nothing but a step on the way to another call. `status`: what it must be answered with.
    """

    route: str
    path: str = ""
    body: Any = None
    text: str | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    saved: Mapping[str, str] = field(default_factory=dict)
    until_done: bool = False
    lines: int = 12
    shown: bool = True
    status: int | None = None


WITHOUT = {
    "POST /fleet/join": "asked by a gateway, which is called back at its address: [a fleet](../fleet.md)",
    "POST /fleet/heartbeat": "asked by members of a fleet",
    "POST /fleet/keys": "asked by members of a fleet",
    "POST /fleet/{member_id}/drain": "needs a member: [a fleet](../fleet.md)",
    "POST /fleet/{member_id}/cordon": "needs a member: [a fleet](../fleet.md)",
    "POST /fleet/{member_id}/uncordon": "needs a member: [a fleet](../fleet.md)",
    "DELETE /fleet/{member_id}": "needs a member: [a fleet](../fleet.md)",
    "POST /pull": "needs a hub that can be reached: [pulling](../models.md)",
    "POST /api/pull": "needs a hub that can be reached: [pulling](../models.md)",
    "PUT /models/{model_id}/weights": "tensors, which the Python client sends: [pushed weights](../weights.md)",
    "POST /eval/tasks": "needs a file that may be run: [task files](../evals.md#task-files-of-other-harnesses)",
    "POST /update_weights": "tensors, which the Python client sends: [pushed weights](../weights.md)",
    "POST /finish_weight_update": "follows tensors, which the Python client sends: [pushed weights](../weights.md)",
    "GET /ui": "a page for browsers: [the web UI](../ui.md)",
}
"""Routes that have no example, and why."""

_QUESTION = "What is 17+25?"
_MESSAGES = [{"role": "user", "content": _QUESTION}]


def _chat(**more: Any) -> dict[str, Any]:
    return {"model": "active", "messages": _MESSAGES, "temperature": 0, "max_tokens": 16, **more}


CALLS: Sequence[Call] = (
    # What is there
    Call("GET /livez"),
    Call("GET /readyz"),
    Call("GET /health"),
    Call("GET /version"),
    Call("GET /info"),
    Call("GET /status"),
    Call("GET /system"),
    Call("GET /gpu", status=503),
    Call("GET /history", "/history?window_s=60&samples=2"),
    Call("GET /diag"),
    Call("GET /config"),
    Call("POST /config/reload"),
    Call("GET /metrics", lines=10),
    Call("GET /", lines=3),
    # Models
    Call("POST /models/register", body={"id": EARLY, "source": "train", "step": 300, "tags": ["night-1"]}),
    Call("GET /models"),
    Call("GET /models/{model_id}", f"/models/{CHECKPOINT}"),
    Call("PATCH /models/{model_id}", f"/models/{EARLY}", {"keep_alive": "10m"}),
    Call("POST /models/set_active", body={"id": EARLY}),
    Call("POST /models/rollback"),
    Call("GET /models/active"),
    Call("GET /models/activations", "/models/activations?limit=2"),
    Call("GET /models/{model_id}/weights", f"/models/{CHECKPOINT}/weights"),
    Call("PUT /aliases/{name}", "/aliases/teacher", {"model": CHECKPOINT, "temperature": 0}),
    Call("GET /aliases"),
    Call("GET /aliases/{name}", "/aliases/teacher"),
    Call(
        "POST /models/{model_id}/files",
        "/models/night-2/files",
        {"upload": "trainer-1", "files": [{"name": "config.json", "size_bytes": 2}]},
    ),
    Call("GET /models/{model_id}/files", "/models/night-2/files"),
    Call(
        "POST /models/{model_id}/files/{name}",
        "/models/night-2/files/config.json",
        {
            "upload": "trainer-1",
            "chunks": [{"size_bytes": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}],
        },
    ),
    Call("DELETE /models/{model_id}/files", "/models/night-2/files"),
    # Answers
    Call("GET /v1/models"),
    Call("GET /v1/models/{name}", "/v1/models/active"),
    Call("POST /v1/chat/completions", body=_chat(), saved={"request": "header:x-request-id"}),
    Call("POST /v1/chat/completions/render", body=_chat()),
    Call("POST /v1/completions", body={"model": "active", "prompt": "2+2=", "temperature": 0, "max_tokens": 4}),
    Call("POST /v1/completions/render", body={"model": "active", "prompt": "2+2=", "max_tokens": 4}),
    Call("POST /inference/v1/generate", body={"token_ids": [1, 5, 9], "sampling_params": {"max_tokens": 4, "seed": 1}}),
    Call(
        "POST /v1/responses",
        body={"model": "active", "input": _QUESTION, "temperature": 0, "max_output_tokens": 16, "store": True},
        saved={"response": "id"},
    ),
    Call("GET /v1/responses/{response_id}", "/v1/responses/{response}"),
    Call("GET /v1/responses/{response_id}/input_items", "/v1/responses/{response}/input_items"),
    Call("POST /v1/responses/{response_id}/cancel", "/v1/responses/{response}/cancel", status=400),
    Call("DELETE /v1/responses/{response_id}", "/v1/responses/{response}"),
    Call(
        "POST /v1/conversations",
        body={"items": [{"type": "message", "role": "user", "content": _QUESTION}]},
        saved={"conversation": "id"},
    ),
    Call("GET /v1/conversations/{conversation_id}", "/v1/conversations/{conversation}"),
    Call(
        "POST /v1/conversations/{conversation_id}",
        "/v1/conversations/{conversation}",
        {"metadata": {"topic": "additions"}},
    ),
    Call(
        "GET /v1/conversations/{conversation_id}/items",
        "/v1/conversations/{conversation}/items",
        saved={"item": "data.0.id"},
    ),
    Call(
        "POST /v1/conversations/{conversation_id}/items",
        "/v1/conversations/{conversation}/items",
        {"items": [{"type": "message", "role": "assistant", "content": "42"}]},
    ),
    Call("GET /v1/conversations/{conversation_id}/items/{item_id}", "/v1/conversations/{conversation}/items/{item}"),
    Call("DELETE /v1/conversations/{conversation_id}/items/{item_id}", "/v1/conversations/{conversation}/items/{item}"),
    Call("DELETE /v1/conversations/{conversation_id}", "/v1/conversations/{conversation}"),
    Call("POST /v1/messages", body=_chat()),
    Call("POST /v1/messages/count_tokens", body={"model": "active", "messages": _MESSAGES}),
    Call("POST /tokenize", body={"model": "active", "prompt": "2+2="}),
    Call("POST /detokenize", body={"model": "active", "tokens": [50, 43, 50, 61]}),
    Call("POST /generate", body={"prompt": _QUESTION, "max_new_tokens": 8, "do_sample": False}),
    Call("POST /chat", body={"messages": _MESSAGES, "max_new_tokens": 8, "do_sample": False}),
    Call("POST /solve/math", body={"problem": _QUESTION}),
    Call("POST /solve/coding", body={"problem": "Add 17 and 25.", "max_tokens": 32}),
    Call(
        "POST /api/chat",
        body={"model": "active", "messages": _MESSAGES, "stream": False, "options": {"temperature": 0}},
    ),
    Call(
        "POST /api/generate",
        body={"model": "active", "prompt": _QUESTION, "stream": False, "options": {"temperature": 0}},
    ),
    Call("POST /api/embed", body={"model": "active", "input": "2+2"}, status=400),
    Call("POST /api/embeddings", body={"model": "active", "prompt": "2+2"}, status=400),
    Call("GET /api/tags"),
    Call("GET /api/ps"),
    Call("POST /api/show", body={"model": CHECKPOINT}),
    Call("GET /api/version"),
    Call(
        "POST /api/create",
        body={"model": "careful", "from": CHECKPOINT, "parameters": {"temperature": 0}, "stream": False},
    ),
    Call("POST /api/copy", body={"source": "careful", "destination": "careful-too"}, lines=3),
    Call("DELETE /api/delete", body={"model": "careful-too"}, lines=3),
    Call("DELETE /aliases/{name}", "/aliases/teacher"),
    # Evals
    Call("GET /datasets"),
    Call(
        "PUT /datasets/{name}",
        f"/datasets/{TRAINED}",
        text='{"question": "What is 2+3?", "answer": "5"}\n{"question": "What is 77+15?", "answer": "92"}\n',
    ),
    Call("GET /datasets/{name}", f"/datasets/{TRAINED}", lines=3),
    Call("GET /datasets/{name}/contamination", f"/datasets/{EXAM}/contamination?against={TRAINED}"),
    Call(
        "POST /eval/jobs",
        body={"name": "additions", "model_id": EARLY, "dataset_ref": EXAM, "max_samples": 100, "max_tokens": 8},
        saved={"a": "job_id"},
    ),
    Call("GET /eval/jobs/{job_id}", "/eval/jobs/{a}", until_done=True),
    Call(
        "POST /eval/jobs",
        body={"name": "additions", "model_id": CHECKPOINT, "dataset_ref": EXAM, "max_samples": 100, "max_tokens": 8},
        saved={"b": "job_id"},
        shown=False,
    ),
    Call("GET /eval/jobs/{job_id}", "/eval/jobs/{b}", until_done=True, shown=False),
    Call("GET /eval/compare", "/eval/compare?a={a}&b={b}"),
    Call("GET /eval/jobs/{job_id}/samples", "/eval/jobs/{a}/samples?verdict=wrong&limit=1"),
    Call("GET /eval/jobs/{job_id}/report", "/eval/jobs/{a}/report?format=markdown", lines=20),
    Call("GET /eval/jobs/{job_id}/export", "/eval/jobs/{a}/export?format=lm_eval"),
    Call("GET /eval/jobs/{job_id}/flaky", "/eval/jobs/{a}/flaky"),
    Call("POST /eval/jobs/{job_id}/rescore", "/eval/jobs/{a}/rescore", {"metrics": ["accuracy"]}),
    Call("GET /eval/tasks"),
    Call("GET /eval/history", "/eval/history?limit=1"),
    Call(
        "POST /eval/imports",
        f"/eval/imports?model_id={EARLY}&format=lm_eval",
        text='{"doc_id": 0, "doc": {"question": "What is 2+3?"}, "target": "5", "arguments": {"gen_args_0": {"arg_0": '
        '"What is 2+3?", "arg_1": {}}}, "resps": [["5"]], "filtered_resps": ["5"], "filter": "none", "metrics": '
        '["exact_match"], "exact_match": 1.0}\n',
    ),
    Call("GET /datasets/{name}/versions", f"/datasets/{EXAM}/versions"),
    Call("DELETE /datasets/{name}", f"/datasets/{TRAINED}"),
    # Promotions and policies
    Call(
        "POST /promotions",
        body={
            "candidate": CHECKPOINT,
            "baseline": EARLY,
            "suite": [{"dataset_ref": EXAM, "metric": "accuracy", "max_tokens": 8}],
        },
        saved={"promotion": "job_id"},
    ),
    Call("GET /promotions/{job_id}", "/promotions/{promotion}", until_done=True),
    Call("GET /promotions/{job_id}/report", "/promotions/{promotion}/report?format=markdown", lines=25),
    Call(
        "PUT /policies/{name}",
        "/policies/nightly",
        {"match": {"id": "night-*"}, "evals": [{"name": "additions", "dataset_ref": EXAM, "max_tokens": 8}]},
    ),
    Call("GET /policies"),
    Call("GET /policies/{name}", "/policies/nightly"),
    Call("POST /policies/{name}/dry_run", "/policies/nightly/dry_run", {"id": EARLY}),
    Call("DELETE /policies/{name}", "/policies/nightly"),
    # Data
    Call(
        "POST /data_gen/pipelines/preview",
        body={
            "rows": 2,
            "config": {
                "num_examples": 2,
                "seed": 7,
                "user": "What is {{ a }}+{{ b }}?",
                "assistant": "{{ answer }}",
                "columns": [
                    {"name": "a", "kind": "integers", "low": 10, "high": 99},
                    {"name": "b", "kind": "integers", "low": 10, "high": 99},
                    {"name": "answer", "kind": "prompt", "template": "What is {{ a }}+{{ b }}?", "max_tokens": 8},
                ],
            },
        },
    ),
    Call(
        "POST /data_gen/jobs",
        body={
            "model_id": CHECKPOINT,
            "strategy": "fix_eval_failures",
            "config": {"source_eval_run_id": "{a}", "num_examples": 4, "max_tokens": 8},
        },
        saved={"data": "job_id"},
    ),
    Call("GET /data_gen/jobs/{job_id}", "/data_gen/jobs/{data}", until_done=True),
    Call("GET /data_gen/jobs/{job_id}/report", "/data_gen/jobs/{data}/report"),
    Call("GET /data_gen/jobs/{job_id}/rejected", "/data_gen/jobs/{data}/rejected?limit=1"),
    Call("GET /data_gen/jobs/{job_id}/files/{name}", "/data_gen/jobs/{data}/files/README.md", lines=15),
    Call("GET /shards", saved={"shard": "shards.0.name"}),
    Call("GET /data_gen/jobs/{job_id}/shards/{name}", "/data_gen/jobs/{data}/shards/{shard}", lines=1),
    Call("GET /shards/{name}", "/shards/{shard}", lines=1),
    Call("POST /shards/claim", body={"claimed_by": "trainer-1"}, saved={"claim": "shard.claim_id"}),
    Call("POST /shards/{name}/nack", "/shards/{shard}/nack", {"claim_id": "{claim}", "reason": "disk full"}),
    Call("POST /shards/claim", body={"claimed_by": "trainer-1"}, saved={"claim": "shard.claim_id"}, shown=False),
    Call("POST /shards/{name}/ack", "/shards/{shard}/ack", {"claim_id": "{claim}"}),
    # Jobs
    Call("GET /jobs", "/jobs?limit=1"),
    Call("GET /jobs/stats"),
    Call("GET /jobs/{job_id}", "/jobs/{a}"),
    Call("GET /jobs/{job_id}/events", "/jobs/{a}/events", lines=2),
    Call(
        "POST /eval/jobs",
        body={"name": "large", "model_id": EARLY, "dataset_ref": EXAM, "n": 64, "temperature": 1},
        saved={"long": "job_id"},
        shown=False,
    ),
    Call("POST /jobs/{job_id}/cancel", "/jobs/{long}/cancel"),
    Call("GET /jobs/{job_id}", "/jobs/{long}", until_done=True, shown=False),
    Call("POST /jobs/{job_id}/retry", "/jobs/{long}/retry"),
    Call("POST /jobs/{job_id}/cancel", "/jobs/{long}/cancel", shown=False),
    Call("GET /logs/{component}", "/logs/jobs?lines=2"),
    # Files and batches
    Call(
        "POST /v1/files",
        form={"purpose": "batch"},
        text='{"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "'
        + CHECKPOINT
        + '", "messages": [{"role": "user", "content": "What is 17+25?"}], "max_tokens": 8}}\n',
        saved={"file": "id"},
    ),
    Call("GET /v1/files"),
    Call("GET /v1/files/{file_id}", "/v1/files/{file}"),
    Call("GET /v1/files/{file_id}/content", "/v1/files/{file}/content", lines=1),
    Call(
        "POST /v1/batches",
        body={"input_file_id": "{file}", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
        saved={"batch": "id"},
    ),
    Call("GET /v1/batches/{batch_id}", "/v1/batches/{batch}", until_done=True),
    Call("GET /v1/batches"),
    Call("POST /v1/batches/{batch_id}/cancel", "/v1/batches/{batch}/cancel"),
    Call("DELETE /v1/files/{file_id}", "/v1/files/{file}"),
    # Webhooks
    Call("PUT /webhooks/{name}", "/webhooks/night", {"url": "http://127.0.0.1:9/hook", "events": ["job.failed"]}),
    Call("GET /webhooks"),
    Call("POST /webhooks/{name}/test", "/webhooks/night/test"),
    Call("GET /webhooks/deliveries", saved={"delivery": "deliveries.0.id"}),
    Call("POST /webhooks/deliveries/{delivery_id}/retry", "/webhooks/deliveries/{delivery}/retry", status=409),
    Call("DELETE /webhooks/{name}", "/webhooks/night"),
    # Power
    Call("GET /settings/power_profile"),
    Call("POST /settings/power_profile", "/settings/power_profile?profile=quiet"),
    # vLLM's routes for trainers
    Call("GET /server_info"),
    Call("GET /get_world_size"),
    Call("GET /weight_info"),
    Call("POST /pause"),
    Call("GET /is_paused"),
    Call("POST /resume"),
    Call("POST /reset_prefix_cache"),
    Call("POST /init_weight_transfer_engine", body={"init_info": {"backend": "http"}}),
    Call("POST /start_weight_update", body={}),
    Call("POST /shutdown_weight_transfer_engine"),
    # A fleet, whose first member is the server itself
    Call("GET /fleet"),
    Call("GET /fleet/files/{model_id}", f"/fleet/files/{CHECKPOINT}", saved={"digest": "digest"}),
    Call("GET /fleet/files/{model_id}/{name}", f"/fleet/files/{CHECKPOINT}/config.json?digest={{digest}}", lines=4),
    # Models that go
    Call("POST /models/{model_id}/unload", f"/models/{EARLY}/unload"),
    Call("DELETE /models/{model_id}", f"/models/{EARLY}?dry_run=true&files=true"),
    Call("GET /audit", "/audit?limit=2"),
    # Keys, at the end: from the first on every call needs one
    Call(
        "POST /keys",
        body={"name": "laptop", "scopes": ["admin"], "expires_in_days": 30},
        saved={"key": "id", "secret": "key"},
    ),
    Call("GET /keys"),
    Call("GET /keys/{key_id}", "/keys/{key}"),
    # Traffic, which needs a key that consents
    Call("PUT /traffic/consent", body={"keep": True}),
    Call("GET /traffic/consent"),
    Call("POST /v1/chat/completions", body=_chat(), saved={"request": "header:x-request-id"}, shown=False),
    Call("POST /feedback", body={"request_id": "{request}", "rating": -1, "correction": "42"}),
    Call("GET /traffic/requests", "/traffic/requests?limit=1"),
    Call("GET /traffic/requests/{request_id}", "/traffic/requests/{request}"),
    Call("POST /traffic/datasets", body={"name": "rated.jsonl", "kind": "eval"}),
    Call("DELETE /traffic/requests/{request_id}", "/traffic/requests/{request}"),
    Call("DELETE /traffic/requests"),
    Call("POST /keys", body={"name": "trainer", "scopes": ["weights"]}, saved={"other": "id"}, shown=False),
    Call("DELETE /keys/{key_id}", "/keys/{other}"),
)
