"""A promotion as JUnit's XML, which CI systems show: a test case for the decision, each metric and each guard."""

from typing import Any
from xml.etree import ElementTree as Xml

from stepserve.client.results import Promotion

_SHOWN_ITEMS = 10


def junit_of(promotion: Promotion) -> str:
    """Of one that is decided. A failure: shown to be worse, or over its limit; skipped: not shown to be better."""
    suite = Xml.Element("testsuite", name=f"promotion of {promotion.model_id}", hostname="stepserve", id=promotion.id)
    decision = _case(suite, "promotion", "decision")
    reasons = _printable("\n".join(promotion.reasons or []))
    if promotion.decision == "undecided":
        Xml.SubElement(decision, "skipped", message="undecided").text = reasons
    elif promotion.decision != "promoted":
        Xml.SubElement(decision, "failure", message=promotion.decision or "").text = reasons
    rule: dict[str, Any] = (promotion.result or {}).get("rule", {})
    for metric in promotion.per_metric or []:
        _add_metric(suite, metric, rule, promotion)
    for guard in promotion.guards or []:
        case = _case(suite, "guards", guard["guard"])
        if guard["over"]:
            Xml.SubElement(case, "failure", message=f"{guard['value']:g} is over {guard['limit']:g}")
        elif guard["value"] is None:
            Xml.SubElement(case, "skipped", message="not known")
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("errors", "0")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def _add_metric(suite: Xml.Element, metric: dict[str, Any], rule: dict[str, Any], promotion: Promotion) -> None:
    case = _case(suite, metric["dataset"], metric["metric"])
    alpha = float(rule.get("alpha", 0.05))
    asked = "p" if rule.get("test") == "superior" else "p_not_worse"
    numbers = ("a", "b", "difference", "interval", "p", "p_not_worse", "p_worse", "samples_used", "smallest_difference")
    said = "\n".join(f"{name}: {metric.get(name)}" for name in numbers)
    broken = [item for item in promotion.items or [] if _is_of(item, metric) and item["difference"] < 0]
    said += "".join(
        f"\n{item['id']}: {item['baseline']!r} became {item['candidate']!r}" for item in broken[:_SHOWN_ITEMS]
    )
    Xml.SubElement(case, "system-out").text = _printable(said)
    if metric["p_worse"] is not None and metric["p_worse"] <= alpha:
        Xml.SubElement(case, "failure", message=f"worse by more than {metric['margin']:g}")
    elif metric[asked] is None or metric[asked] > alpha:
        Xml.SubElement(case, "skipped", message="not shown to be what was asked")


def _case(suite: Xml.Element, group: str, name: str) -> Xml.Element:
    return Xml.SubElement(suite, "testcase", classname=group, name=name)


def _is_of(item: dict[str, Any], metric: dict[str, Any]) -> bool:
    return (item["dataset"], item.get("metric")) == (metric["dataset"], metric["metric"])


def _printable(text: str) -> str:
    """Without the control characters that XML has no way to write."""
    return "".join(character for character in text if character in "\t\n" or character.isprintable())
