"""How a checkpoint is loaded: in fewer bits, or by transformers where vLLM has no code of its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.helium import write_helium
from tests.e2e.server import FINAL, FINAL_ID, Server, answer_of


@pytest.fixture(scope="module", autouse=True)
def _back(server: Server) -> Iterator[None]:
    yield
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()


def register_and_activate(server: Server, model_id: str, **body: object) -> dict[str, object]:
    answer = server.http.post("/models/register", json={"id": model_id, "source": "test", "activate": True, **body})
    assert answer.status_code == 200, answer.text
    (model,) = (each for each in server.http.get("/models").json()["models"] if each["id"] == model_id)
    shown: dict[str, object] = model
    return shown


def test_eight_bits_at_load_and_four_refused(server: Server) -> None:
    server.copy_checkpoint(FINAL, "small")
    refused = server.http.post("/models/register", json={"id": "small", "source": "test", "quantize": "q4"})
    assert refused.status_code == 422
    assert "possible here: auto, fp16, q8, no" in refused.json()["detail"]
    model = register_and_activate(server, "small", quantize="q8")
    final = next(each for each in server.http.get("/models").json()["models"] if each["id"] == FINAL_ID)
    assert (model["quantization"], model["backend"]) == ("q8", "vllm")
    assert model["digest"] != final["digest"]
    answer = server.ask("What is 17+25?", model="small")
    assert answer_of(answer) == "42"
    assert answer.headers["x-model-digest"] == model["digest"]


def test_an_architecture_that_vllm_lacks_runs_through_transformers(server: Server) -> None:
    write_helium(server.models_dir / "helium")
    model = register_and_activate(server, "helium")
    assert (model["architecture"], model["backend"]) == ("HeliumForCausalLM", "transformers")
    (activation,) = server.http.get("/models/activations", params={"limit": 1}).json()["activations"]
    assert activation["proof"]["passed"]
    assert activation["proof"]["kind"] == "computed"
    response = server.ask("What is 17+25?", model="helium")
    assert answer_of(response) != "42"
    assert response.headers["x-model-id"] == "helium"
