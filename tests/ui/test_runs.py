"""A run of training: its checkpoints, which one serves, and two of them compared."""

import pytest

from tests.ui.control_server import ControlServer
from tests.ui.page import opened, words


@pytest.fixture(autouse=True)
def _bare_control(bare_control: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", bare_control.url)


def _measured(bare_control: ControlServer, model_id: str) -> str:
    body = {"model_id": model_id, "name": "n", "dataset_ref": "sums.jsonl", "metrics": ["numeric"]}
    job = str(bare_control.http.post("/eval/jobs", json=body).raise_for_status().json()["job_id"])
    bare_control.ended(job)
    return job


def test_two_checkpoints_that_are_ticked_are_compared_the_earlier_first(bare_control: ControlServer) -> None:
    bare_control.add("step-500", 0.5, step=500)
    bare_control.add("step-1500", 1.0, step=1500)
    bare_control.add("step-2000", 1.0, step=2000)
    late, early = _measured(bare_control, "step-1500"), _measured(bare_control, "step-500")
    page = opened("runs")
    page.selectbox(key="runs_measure").select("numeric on sums.jsonl").run()
    boxes = {site.label.split(" · ")[1]: site for site in page.checkbox}
    assert "100.0 % (" in boxes["step-1500"].label
    assert boxes["step-2000"].disabled, "nobody has measured it"
    assert page.button(key="runs_compare").disabled
    boxes["step-1500"].check().run()
    boxes["step-500"].check().run()
    page.button(key="runs_compare").click().run()
    assert not page.exception
    said = page.header[0].value
    assert said.startswith("step-1500 is better than step-500: +50.0 points (")
    assert said.endswith("30 fixed, 0 broken, p < 0.001.")
    assert (page.query_params["a"], page.query_params["b"]) == (early, late)


def test_the_one_that_serves_is_marked(bare_control: ControlServer) -> None:
    bare_control.add("serving-900", 0.9, step=900)
    _measured(bare_control, "serving-900")
    bare_control.http.post("/models/set_active", json={"id": "serving-900"}).raise_for_status()
    try:
        page = opened("runs")
        (line,) = [site.label for site in page.checkbox if "**serves**" in site.label]
        assert line.startswith("**step 900** · serving-900 · ")
        assert "**serving-900** serves" in words(page)
    finally:
        bare_control.http.post("/models/set_active", json={"id": "old"}).raise_for_status()
