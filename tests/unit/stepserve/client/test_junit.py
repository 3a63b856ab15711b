from typing import Any
from xml.etree import ElementTree as Xml

import pytest

from stepserve.client.junit import junit_of
from stepserve.client.results import Promotion

METRIC = {
    "dataset": "sums.jsonl", "metric": "numeric", "margin": 0.02, "a": 0.5, "b": 0.2, "difference": -0.3,
    "interval": [-0.4, -0.2], "p": 1.0, "p_not_worse": 1.0, "p_worse": 0.001, "samples_used": 50,
    "smallest_difference": 0.1,
}  # fmt: skip
ITEM = {
    "dataset": "sums.jsonl",
    "metric": "numeric",
    "id": "7",
    "difference": -1.0,
    "baseline": "4",
    "candidate": "\x005",
}
OVER = {"guard": "tokens", "value": 3.0, "limit": 2.0, "over": True}


def promotion(decision: str, **changes: Any) -> Promotion:
    fields: dict[str, Any] = {
        "id": "promotion_1", "type": "promotion", "status": "done", "model_id": "new", "decision": decision,
        "reasons": ["numeric on sums.jsonl is so & so"], "per_metric": [METRIC], "guards": [], "items": [ITEM],
        "result": {"rule": {"test": "superior", "alpha": 0.05}},
    }  # fmt: skip
    return Promotion.model_validate({**fields, **changes})


@pytest.mark.parametrize(
    ("found", "cases"),
    [
        (promotion("refused"), {"decision": "failure", "numeric": "failure"}),
        (promotion("promoted", per_metric=[{**METRIC, "p": 0.01, "p_worse": 1.0}]), {"decision": "", "numeric": ""}),
        (
            promotion("undecided", per_metric=[{**METRIC, "p_worse": 1.0}]),
            {"decision": "skipped", "numeric": "skipped"},
        ),
        (promotion("rolled_back", per_metric=[]), {"decision": "failure"}),
        (promotion("refused", per_metric=[], guards=[OVER]), {"decision": "failure", "tokens": "failure"}),
    ],
)
def test_a_case_for_the_decision_each_metric_and_each_guard(found: Promotion, cases: dict[str, str]) -> None:
    suite = Xml.fromstring(junit_of(found))
    seen = {
        case.attrib["name"]: next((child.tag for child in case if child.tag != "system-out"), "")
        for case in suite.iter("testcase")
    }
    assert seen == cases
    assert suite.attrib["tests"] == str(len(cases))
    assert suite.attrib["failures"] == str([*cases.values()].count("failure"))


def test_it_says_what_broke() -> None:
    text = junit_of(promotion("refused"))
    assert "7: '4' became" in text
    assert "is so &amp; so" in text
