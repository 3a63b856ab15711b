"""pipeline: what is refused before any engine is used, what is drawn, the columns' order, and what a row becomes."""

import json
import random
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datagen.pipelines.graph import Cycle, ancestors, in_order
from datagen.pipelines.samplers import Category, Integers, Normal, Uniform
from datagen.templates import TemplateFailed, names_read
from stepserve.contract import BatchItem, BatchOutput
from stepserve.jobs.errors import BadJob
from tests.documents import REPOSITORY, blocks_of
from tests.unit.datagen.run_setup import JOB_ID, RunSetup, SayingEngine, prompt_of, said

TOPIC: dict[str, Any] = {"name": "topic", "kind": "category", "values": ["birds", "trees"]}
QUESTION: dict[str, Any] = {"name": "question", "kind": "prompt", "template": "Ask about {{topic}}."}
ANSWER: dict[str, Any] = {"name": "answer", "kind": "prompt", "template": "{{question}}"}
ENDS: dict[str, Any] = {"user": "{{question}}", "assistant": "{{answer}}"}
LOOSE: dict[str, Any] = {"filters": [], "max_similarity": 1.0}


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path)


def column(kind: str, name: str = "x", **fields: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, **fields}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"columns": []}, "config.columns: List should have at least 1 item"),
        ({"columns": [column("categroy", values=[1])]}, "config.columns.0.kind: 'categroy' is not a kind; known are"),
        ({"columns": [column("categroy", values=[1])]}, "(did you mean category?)"),
        ({"columns": [{"name": "x"}]}, "config.columns.0.kind: is missing; known are category,"),
        ({"columns": [TOPIC, {"kind": "category", "values": [1]}]}, "config.columns.1.name: is missing"),
        ({"columns": [column("category", "2nd", values=[1])]}, "config.columns.0.name: '2nd' is not a valid name"),
        ({"columns": [column("category", "_x", values=[1])]}, "config.columns.0.name: '_x' is not a valid name"),
        ({"columns": [column("category", "row", values=[1])]}, "config.columns.0.name: 'row' means something else"),
        ({"columns": [TOPIC, TOPIC]}, "config.columns.1.name: 'topic' is the name of columns.0 already"),
        ({"columns": [column("category")]}, "config.columns.0.values: is missing"),
        ({"columns": [column("category", values=[])]}, "config.columns.0.values: List should have at least 1 item"),
        ({"columns": [column("category", values=[1], colour=1)]}, "config.columns.0.colour: unknown field"),
        (
            {"columns": [column("category", values=[1, 2], weights=[1])]},
            "config.columns.0.weights: there are 1 weights for 2 values",
        ),
        (
            {"columns": [column("category", values=[1], weights=[0])]},
            "config.columns.0.weights: must sum to more than 0",
        ),
        (
            {"columns": [column("category", values=[1, 2], weights=[2, -1])]},
            "config.columns.0.weights.1: Input should be greater than or equal to 0",
        ),
        ({"columns": [column("uniform", low=2, high=1)]}, "config.columns.0.high: must be above low (2)"),
        ({"columns": [column("uniform", low=-1e308, high=1e308)]}, "config.columns.0.high: is too far from low"),
        ({"columns": [column("normal", mean=0, sd=0)]}, "config.columns.0.sd: Input should be greater than 0"),
        ({"columns": [column("normal", mean=0, sd=1, low=3, high=3)]}, "config.columns.0.high: must be above low (3)"),
        ({"columns": [column("normal", mean=0, sd=1, low=50)]}, "config.columns.0.high: low and high leave less than"),
        ({"columns": [column("integers", low=2, high=1)]}, "config.columns.0.high: must not be below low (2)"),
        ({"columns": [column("integers", low=1, high=9, step=0)]}, "config.columns.0.step: Input should be greater"),
        ({"columns": [column("rows")]}, "config.columns.0: needs one of rows, dataset_ref and input"),
        ({"columns": [column("rows", rows=[{}], input="a.jsonl")]}, "config.columns.0: rows come from one of rows"),
        ({"columns": [column("rows", input="no.jsonl")]}, "config.columns.0.input: there is no file 'no.jsonl'"),
        ({"columns": [column("rows", input="logs/x.jsonl")]}, "config.columns.0.input: 'logs/x.jsonl' belongs to the"),
        ({"columns": [column("rows", dataset_ref="no")]}, "config.columns.0.dataset_ref: there is no file 'no'"),
        ({"columns": [TOPIC, column("each", of="topc.x")]}, "config.columns.1.of: there is no column 'topc' (did you"),
        (
            {"columns": [TOPIC, column("each", of="topic"), column("each", "y", of="topic")]},
            "config.columns.2.kind: columns.1 splits the row already",
        ),
        ({"columns": [column("each", of="x.y")]}, "config.columns.0: a cycle: x needs x"),
        (
            {"columns": [TOPIC, column("prompt", template="About {{topc}}.")]},
            "config.columns.1.template: there is no column 'topc' (did you mean topic?)",
        ),
        (
            {"columns": [TOPIC, column("prompt", template="{{topic")]},
            "config.columns.1.template: line 1: unexpected end",
        ),
        (
            {"columns": [TOPIC, column("prompt", template="{{topic.upper()}}")]},
            "config.columns.1.template: line 1: call",
        ),
        ({"columns": [TOPIC, column("prompt", template="a", system="{{y}}")]}, "config.columns.1.system: there is no"),
        ({"columns": [TOPIC], "user": "{{toppic}}"}, "config.user: there is no column 'toppic' (did you mean topic?)"),
        ({"columns": [TOPIC], "user": "{{row.topic}}"}, "config.user: there is no column 'row'"),
        (
            {"columns": [TOPIC, column("expression", template="{{x}}")]},
            "config.columns.1: a cycle: x needs x",
        ),
        (
            {
                "columns": [
                    TOPIC,
                    column("expression", "a", template="{{topic}}{{b}}"),
                    column("expression", "b", template="{{c}}"),
                    column("expression", "c", template="{{a}}"),
                ]
            },
            "config.columns.1: a cycle: a needs b needs c needs a",
        ),
        (
            {"columns": [TOPIC, column("verifier", verifier="regx", answer="{{topic}}")]},
            "config.columns.1.verifier: 'regx' is not a verifier; known are numeric,",
        ),
        (
            {"columns": [TOPIC, column("verifier", verifier="regx", answer="{{topic}}")]},
            "(did you mean regex?)",
        ),
        (
            {"columns": [TOPIC, column("verifier", verifier="regex", answer="{{topic}}")]},
            "config.columns.1.settings.pattern: is missing",
        ),
        (
            {"columns": [TOPIC, column("verifier", verifier="regex", answer="a", settings={"pattern": "("})]},
            "config.columns.1.settings.pattern: is not a regular expression",
        ),
        (
            {"columns": [TOPIC, column("verifier", verifier="numeric", answer="a", settings={"answer_field": "topc"})]},
            "config.columns.1.settings.answer_field: there is no column 'topc' (did you mean topic?)",
        ),
        (
            {"columns": [TOPIC, column("verifier", verifier="math", answer="a", needs=["topc"])]},
            "config.columns.1.needs.0: there is no column 'topc'",
        ),
        ({"columns": [TOPIC, column("judge", answer="{{topic}}")]}, "config.columns.1.question: is missing"),
        (
            {"columns": [TOPIC, column("judge", question="a", answer="b", prompt="p", rubric=["r"])]},
            "config.columns.1.rubric: does not go together with prompt",
        ),
        (
            {"columns": [TOPIC, column("prompt", template="a", json_schema={"type": "nonsense"})]},
            "config.columns.1.json_schema: type: 'nonsense' is not valid",
        ),
        ({"columns": [TOPIC], "user": "{{topic}}", "assistant": None}, "config.assistant: is missing"),
    ],
)
def test_what_cannot_run_is_refused_naming_the_field(
    run_setup: RunSetup, changed: dict[str, Any], message: str
) -> None:
    config = {"columns": [TOPIC], "user": "a", "assistant": "b", **changed}
    given = {name: value for name, value in config.items() if value is not None}
    assert message in run_setup.refusal("pipeline", **given)


def test_a_field_that_the_first_row_lacks_is_refused(run_setup: RunSetup) -> None:
    columns = [column("rows", "doc", rows=[{"title": "a"}]), column("prompt", template="{{doc.titel}}")]
    refused = run_setup.refusal("pipeline", columns=columns, user="{{x}}", assistant="{{doc.title}}")
    assert "config.columns.1.template: fails on the first row: " in refused


@pytest.mark.parametrize(
    ("template", "names"),
    [
        ("plain", []),
        ("{{a}} {{a}} {{b.c}} {{b['d']}}", ["a", "b"]),
        ("{% for x in xs %}{{x}}{{loop.index}}{{y}}{% else %}{{x}}{% endfor %}", ["xs", "y", "x"]),
        ("{% for k, v in xs %}{{k}}{{v}}{% endfor %}{{v}}", ["xs", "v"]),
        ("{% for x in xs if x > low %}{{x}}{% endfor %}", ["xs", "low"]),
        ("{{ a if b is defined else c|default(d) }}", ["b", "a", "c", "d"]),
    ],
)
def test_the_names_that_a_template_reads(template: str, names: list[str]) -> None:
    assert sorted(names_read(template)) == sorted(names)


@pytest.mark.parametrize(
    "template", ["{{", "{{ f() }}", "{{ a.__class__ }}", f"{{{{ {'9' * 5000} }}}}", "{{" + "(" * 9999]
)
def test_names_of_no_template(template: str) -> None:
    with pytest.raises(TemplateFailed):
        names_read(template)


@pytest.mark.parametrize(
    ("needs", "order"),
    [
        ({"a": [], "b": [], "c": []}, "abc"),
        ({"a": ["c"], "b": [], "c": ["b"]}, "bca"),
        ({"a": [], "b": ["a"], "c": [], "d": ["b"]}, "abcd"),
        ({"d": ["b", "c"], "c": ["a"], "b": ["a"], "a": []}, "acbd"),
    ],
)
def test_columns_are_made_after_what_they_need(needs: dict[str, list[str]], order: str) -> None:
    assert "".join(in_order(needs)) == order


@pytest.mark.parametrize(
    ("needs", "cycle"),
    [
        ({"a": ["a"]}, "aa"),
        ({"a": ["b"], "b": ["a"]}, "aba"),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, "abca"),
    ],
)
def test_a_cycle_names_its_columns_and_no_other(needs: dict[str, list[str]], cycle: str) -> None:
    with pytest.raises(Cycle) as caught:
        in_order(needs)
    assert str(caught.value) == " needs ".join(cycle)


def test_ancestors() -> None:
    assert ancestors(["c"], {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}) == {"a", "b", "c"}


def test_draws_are_within_their_bounds_and_as_often_as_their_weights() -> None:
    chance = random.Random(1)
    counts = Counter(Category(values=["a", "b", "c"], weights=[3, 1, 0]).draw(chance) for _ in range(4000))
    assert counts["c"] == 0
    assert 0.7 < counts["a"] / 4000 < 0.8
    numbers = [Uniform(low=-1, high=1, decimals=2).draw(chance) for _ in range(1000)]
    assert all(-1 <= number <= 1 and round(number, 2) == number for number in numbers)
    assert {Integers(low=1, high=7, step=3).draw(chance) for _ in range(100)} == {1, 4, 7}
    normal = [Normal(mean=10, sd=2).draw(chance) for _ in range(2000)]
    assert abs(sum(normal) / 2000 - 10) < 0.3
    cut = [Normal(mean=10, sd=2, low=9, high=9.5).draw(chance) for _ in range(200)]
    assert all(9 <= number <= 9.5 for number in cut)
    assert isinstance(Normal(mean=10, sd=2, decimals=0).draw(chance), int)


def quiz(item: BatchItem) -> BatchOutput | str:
    prompt = prompt_of(item)
    if prompt.startswith("Ask about"):
        return (
            f"What are {prompt.removeprefix('Ask about ').rstrip('.')}? ({(item.sampling and item.sampling.seed) or 0})"
        )
    return f"They are things: {prompt}"


def test_a_row_is_made_column_by_column_whatever_their_order_in_the_config(run_setup: RunSetup) -> None:
    engine = SayingEngine(quiz)
    result = run_setup.run(
        engine, "pipeline", columns=[ANSWER, QUESTION, TOPIC], **ENDS, **LOOSE, num_examples=5, seed=3,
        system_prompt="Be brief.", system="You know nature.",
    )  # fmt: skip
    rows = run_setup.rows()
    assert (result["accepted"], len(rows), result["columns"]) == (5, 5, ["topic", "question", "answer"])
    for row in rows:
        system, user, assistant = row["messages"]
        assert system == {"role": "system", "content": "You know nature."}
        assert assistant["content"] == f"They are things: {user['content']}"
        assert row["metadata"]["strategy"] == "pipeline"
    asked = [item for request in engine.requests for item in request.items]
    assert {item.messages[0].content for item in asked if item.messages} == {"Be brief."}
    seeds = [item.sampling.seed for item in asked if item.sampling]
    assert len(set(seeds)) == len(seeds), "each column of each row has a seed of its own"
    by_seed = {item.sampling.seed: item for item in asked if item.sampling}
    assert all(prompt_of(by_seed[row["metadata"]["seed"]]) == row["messages"][1]["content"] for row in rows), (
        "the row says which prompt got the answer"
    )


def test_the_same_seed_draws_the_same_and_another_one_something_else(run_setup: RunSetup) -> None:
    columns = [column("integers", "a", low=0, high=10**9), column("uniform", "b", low=0, high=1)]
    config = {"columns": columns, "user": "{{a}} and {{b}}", "assistant": "fine", **LOOSE, "num_examples": 4}
    made = {}
    for job, seed in (("one", 1), ("again", 1), ("other", 2)):
        checked = run_setup.check("pipeline", **config, seed=seed, output_dir=job, against_earlier_shards=False)
        run_setup.go(run_setup.context(checked, SayingEngine(quiz), f"{JOB_ID}{job}"))
        made[job] = {row["messages"][0]["content"] for row in run_setup.rows(job)}
    assert made["one"] == made["again"]
    assert not made["one"] & made["other"]


def test_rows_are_taken_in_turn_once_each_and_at_random_for_ever(run_setup: RunSetup) -> None:
    (run_setup.layout.base / "docs.jsonl").write_text(
        "".join(json.dumps({"id": f"d{n}", "n": n}) + "\n" for n in range(5))
    )
    columns = [
        column("rows", "doc", input="docs.jsonl"),
        column("rows", "person", rows=[{"job": "cook"}, {"job": "poet"}], order="random"),
        column("prompt", "said", template="{{doc.n}} for a {{person.job}}"),
    ]
    result = run_setup.run(
        SayingEngine(lambda item: prompt_of(item) + "!"), "pipeline", columns=columns, user="Say {{doc.n}}",
        assistant="{{said}}", **LOOSE, num_examples=50, seed=4,
    )  # fmt: skip
    rows = run_setup.rows()
    assert (result["attempts"], result["partial"], result["rows"]) == (5, True, {"doc": 5, "person": 2})
    assert sorted(row["metadata"]["source_id"] for row in rows) == [f"d{n}" for n in range(5)]
    assert {row["messages"][1]["content"].rsplit(" ", 1)[1] for row in rows} == {"cook!", "poet!"}


PAIRS = column("expression", "pairs", template='{"of": {{doc.pairs | tojson}} }', result="json")
EACH = column("each", "pair", of="pairs.of", most=3)


def split(run_setup: RunSetup, docs: list[dict[str, Any]], *more: dict[str, Any], **config: Any) -> dict[str, Any]:
    columns = [EACH, *more, PAIRS, column("rows", "doc", rows=docs)]
    ends = {"user": "{{doc.id}}: {{pair.q}}", "assistant": "{{pair.a}}"}
    return run_setup.run(
        SayingEngine(lambda item: f"{prompt_of(item)}!"), "pipeline", columns=columns, **(ends | config), **LOOSE,
        num_examples=50, seed=1,
    )  # fmt: skip


def test_a_row_that_is_split_makes_an_example_of_each_item(run_setup: RunSetup) -> None:
    docs: list[dict[str, Any]] = [
        {"id": "d0", "pairs": [{"q": "what?", "a": "x"}, {"q": "who?", "a": "y"}]},
        {"id": "d1", "pairs": [{"q": f"q{n}?", "a": f"a{n}"} for n in range(5)]},
        {"id": "d2", "pairs": []},
        {"id": "d3", "pairs": "none"},
        {"id": "d4", "pairs": [{"q": "again?", "a": "z"}, {"q": "again?", "a": "z"}]},
    ]
    result = split(run_setup, docs)
    rows = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in run_setup.rows()]
    assert sorted(rows) == [
        ("d0: what?", "x"), ("d0: who?", "y"), ("d1: q0?", "a0"), ("d1: q1?", "a1"), ("d1: q2?", "a2"),
        ("d4: again?", "z"),
    ]  # fmt: skip
    assert (result["attempts"], result["accepted"]) == (5, 6)
    assert result["rejected"] == {"too_many_items": 1, "empty_list": 1, "no_list": 1, "duplicate": 1}
    assert {row["metadata"]["source_id"] for row in run_setup.rows()} == {"d0", "d1", "d4"}


def test_columns_that_read_the_item_are_made_for_each_and_others_once(run_setup: RunSetup) -> None:
    engine = SayingEngine(lambda item: f"{prompt_of(item)}!")
    docs = [{"id": "d0", "pairs": [{"q": f"q{n}", "a": "-"} for n in range(3)]}]
    columns = [
        column("rows", "doc", rows=docs), PAIRS, EACH,
        column("prompt", "about", template="about {{doc.id}}"),
        column("prompt", "reply", template="{{pair.q}} {{about}}"),
        column(
            "verifier", "checked", verifier="regex", answer="{{reply}}",
            settings={"pattern": "q1", "match": "nowhere"},
        ),
    ]  # fmt: skip
    result = run_setup.run(
        engine, "pipeline", columns=columns, user="{{pair.q}}", assistant="{{reply}}", **LOOSE, num_examples=9, seed=1
    )
    assert result["columns"] == ["doc", "pairs", "about", "pair", "reply", "checked"]
    asked = [item for request in engine.requests for item in request.items]
    assert sorted(prompt_of(item) for item in asked) == [
        "about d0", "q0 about d0!", "q1 about d0!", "q2 about d0!",
    ]  # fmt: skip
    assert len({item.sampling.seed for item in asked if item.sampling}) == 4
    assert [row["messages"][0]["content"] for row in run_setup.rows()] == ["q0", "q2"]
    assert (result["rejected"], result["verified_by"]) == ({"not_verified": 1}, {"checked": 2})


def test_no_more_examples_than_were_asked_for_come_of_a_row(run_setup: RunSetup) -> None:
    docs = [{"id": f"d{n}", "pairs": [{"q": f"q{m}", "a": "-"} for m in range(3)]} for n in range(9)]
    columns = [column("rows", "doc", rows=docs), PAIRS, EACH]
    run_setup.run(
        SayingEngine(quiz), "pipeline", columns=columns, user="{{doc.id}} {{pair.q}}", assistant="{{pair.a}}", **LOOSE,
        num_examples=4, seed=1,
    )  # fmt: skip
    assert len(run_setup.rows()) == 4


SUM: list[dict[str, Any]] = [
    column("integers", "a", low=10, high=99),
    column("integers", "b", low=10, high=99),
    column("expression", "question", template="What is {{a}}+{{b}}?"),
    column("expression", "total", template="{{question}}", result="arithmetic"),
    column("prompt", "said", template="{{question}}", max_tokens=9),
]


def adds(item: BatchItem) -> BatchOutput | str:
    a, b = map(int, prompt_of(item).removeprefix("What is ").rstrip("?").split("+"))
    match (a + b) % 4:
        case 0:
            return str(a + b + 1)
        case 1:
            return said(str(a + b), "length")
        case 2:
            return BatchOutput(error="too long")
    return f"It is {a + b}"


def test_verifier_columns_drop_rows_and_every_reason_is_counted(run_setup: RunSetup) -> None:
    check = column("verifier", "checked", verifier="numeric", question="{{question}}", answer="{{said}}",
                   settings={"answer_field": "total"})  # fmt: skip
    result = run_setup.run(
        SayingEngine(adds), "pipeline", columns=[*SUM, check], user="{{question}}", assistant="{{said}}", **LOOSE,
        num_examples=20, max_attempts=60, seed=5,
    )  # fmt: skip
    assert result["accepted"] > 0
    assert set(result["rejected"]) == {"not_verified", "truncated", "engine_error"}
    assert result["accepted"] + result["rejected_total"] == result["attempts"]
    for row in run_setup.rows():
        assert (row["metadata"]["verify_method"], row["metadata"]["verify_score"]) == ("checked", 1.0)
    log = (run_setup.layout.runs / "data_gen" / JOB_ID / "attempts.jsonl").read_text().splitlines()
    details = [each["detail"] for line in log for each in json.loads(line)["rejected"]]
    assert {detail["column"] for detail in details} == {"said", "checked"}


def test_a_verifier_that_is_not_required_is_a_value(run_setup: RunSetup) -> None:
    columns = [
        *SUM,
        column("verifier", "ok", verifier="regex", answer="{{said}}", settings={"pattern": "^It"}, required=False),
    ]
    run_setup.run(
        SayingEngine(lambda item: "It is so" if "1" in prompt_of(item) else "No"), "pipeline", columns=columns,
        user="{{question}} {{ok.passed}}", assistant="{{said}}", **LOOSE, num_examples=12, seed=6,
    )  # fmt: skip
    seen = {
        (row["messages"][0]["content"].rsplit(" ", 1)[1], row["messages"][1]["content"]) for row in run_setup.rows()
    }
    assert seen == {("True", "It is so"), ("False", "No")}


def test_a_judge_column_marks_by_its_rubric(run_setup: RunSetup) -> None:
    def answer(item: BatchItem) -> str:
        prompt = prompt_of(item)
        if "Mark:" not in prompt:
            return quiz_text(item)
        assert "- It is about nature." in prompt
        return "5" if "birds" in prompt else "2"

    def quiz_text(item: BatchItem) -> str:
        made = quiz(item)
        assert isinstance(made, str)
        return made

    judge = column("judge", "mark", question="{{question}}", answer="{{answer}}", rubric=["It is about nature."])
    result = run_setup.run(
        SayingEngine(answer), "pipeline", columns=[TOPIC, QUESTION, ANSWER, judge], **ENDS, **LOOSE, num_examples=4,
        seed=7, max_attempts=30,
    )  # fmt: skip
    assert result["rejected"].keys() == {"judge"}
    assert all("birds" in row["messages"][0]["content"] for row in run_setup.rows())
    assert {row["metadata"]["verify_method"] for row in run_setup.rows()} == {"mark"}


def test_answers_by_a_schema_are_objects_for_later_columns(run_setup: RunSetup) -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}, "hints": {"type": "array"}}, "required": ["q"]}
    columns = [
        column("integers", "n", low=0, high=10**6),
        column("prompt", "pair", template="{{n}}", json_schema=schema),
        column("expression", "hints", template='[{% for hint in pair.hints %}"{{hint}}",{% endfor %}1]', result="json"),
    ]

    def answer(item: BatchItem) -> str:
        n = int(prompt_of(item))
        return json.dumps({"q": f"q{n}", "hints": ["a", "b"]} if n % 3 else {"hints": []}) if n % 2 else "no JSON"

    result = run_setup.run(
        SayingEngine(answer), "pipeline", columns=columns, user="{{pair.q}}", assistant="{{hints[1]}} {{hints[2]}}",
        **LOOSE, num_examples=10, max_attempts=60, seed=8,
    )  # fmt: skip
    assert result["rejected"].keys() == {"not_json", "schema"}
    assert {row["messages"][1]["content"] for row in run_setup.rows()} == {"b 1"}


def test_a_model_of_a_column_that_is_gone_is_named(run_setup: RunSetup) -> None:
    columns = [TOPIC, {**QUESTION, "model": "gone"}, ANSWER]
    with pytest.raises(BadJob, match=r"config.columns.1.model: there is no model 'gone'"):
        run_setup.run(SayingEngine(quiz), "pipeline", columns=columns, **ENDS)


def test_a_template_that_fails_on_a_later_row_is_a_rejection(run_setup: RunSetup) -> None:
    columns = [
        column("rows", "doc", rows=[{"id": "a", "t": "x"}, {"id": "b"}]),
        column("expression", template="{{doc.t}}"),
    ]
    result = run_setup.run(
        SayingEngine(quiz), "pipeline", columns=columns, user="{{x}}", assistant="y", **LOOSE, num_examples=2
    )
    assert (result["accepted"], result["rejected"]) == (1, {"template_failed": 1})


def test_the_configs_that_the_documentation_shows_are_taken(run_setup: RunSetup) -> None:
    (run_setup.layout.base / "chunks.jsonl").write_text('{"id": "report-3", "text": "The bridge is 200 m long."}\n')
    shown = [block for block in blocks_of(REPOSITORY / "docs" / "pipelines.md") if block.kind == "toml"]
    assert len(shown) == 4
    for block in shown:
        run_setup.check("pipeline", **tomllib.loads(block.text))
