"""Every public route gets what its own document allows, and what it does not: no 500, no traceback, no hang."""

from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.schemas import OpenApiSchema

from tests.e2e.server import Server, answer_of

# These end what other tests need: another model would be active, a first key would have all others demanded, requests
# would wait.
SPARED = {("POST", "/models/rollback"), ("POST", "/keys"), ("POST", "/pause"), ("POST", "/start_weight_update")}
LONGEST_S = 120.0
ALLOWED_5XX = (501, 503)  # said in words: what is not there, or not now


@pytest.fixture(scope="module")
def document(server: Server) -> OpenApiSchema:
    server.wait_ready()
    return schemathesis.openapi.from_dict(server.http.get("/openapi.json").json())


def test_the_document_names_every_family_of_routes(server: Server) -> None:
    paths = set(server.http.get("/openapi.json").json()["paths"])
    assert {
        "/generate", "/chat", "/solve/math", "/api/chat", "/api/tags", "/v1/chat/completions", "/v1/messages",
        "/v1/models/{name}", "/v1/files", "/v1/batches/{batch_id}", "/models/set_active", "/eval/jobs", "/health",
    } <= paths  # fmt: skip
    assert not {path for path in paths if path.startswith(("/invocations", "/inference/v1/abort", "/batches", "/ping"))}


@pytest.mark.parametrize("examples", [2, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "not allowed"])
def test_every_route(server: Server, document: OpenApiSchema, mode: GenerationMode, examples: int) -> None:
    wrong: list[str] = []
    tried = 0
    with requests.Session() as session:
        session.trust_env = False
        for found in document.get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()
            if (operation.method.upper(), operation.path) in SPARED:
                continue
            tried += 1

            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            @hypothesis.settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            def ask(case: Any) -> None:
                response = case.call(base_url=server.url, session=session, timeout=LONGEST_S)
                text = response.text
                unkind = response.status_code >= 500 and response.status_code not in ALLOWED_5XX
                if unkind or "Traceback" in text or 'File "' in text:
                    wrong.append(
                        f"{case.method} {case.formatted_path} {case.body!r:.300}: {response.status_code} {text:.300}"
                    )

            try:
                ask()
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing that is wrong can be said on this route
            except requests.RequestException as error:
                wrong.append(f"{operation.method} {operation.path}: {error}")
    assert not wrong, "\n".join(wrong)
    assert tried > 40
    assert answer_of(server.ask("What is 17+25?")) == "42"
