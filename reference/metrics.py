"""docs/reference/metrics.md, out of what a running server says at /metrics."""

from prometheus_client.parser import text_string_to_metric_families

from reference.schema import cell

_HEAD = """# Metrics

Every series of Stepserve's own at `GET /metrics`, as a server without a card shows them; written from its words by
`make reference`, and compared with a running server by a test. [Telemetry](../telemetry.md#metrics) has their labels,
the `stepserve_gpu_…` series that come with a card, and which of vLLM's to watch; those (`vllm:…`) stand beside ours
under [their own names](https://docs.vllm.ai/en/latest/usage/metrics.html).

| series | type | |
|---|---|---|
"""
_OURS = "stepserve_"


def page(exposition: str) -> str:
    families = {
        family.name: family for family in text_string_to_metric_families(exposition)
        if family.name.startswith(_OURS) and not family.name.endswith("_created")
    }  # fmt: skip
    rows = [
        f"| `{name}{'_total' if family.type == 'counter' else ''}` | {family.type} | {cell(family.documentation)} |\n"
        for name, family in sorted(families.items())
    ]
    return _HEAD + "".join(rows)
