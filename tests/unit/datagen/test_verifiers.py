"""Verifiers: what each believes, that rows say which, and what is refused before the engine is asked."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import pytest

from datagen.asking import Asking, Scheduler, Ways
from datagen.judging import agreement
from datagen.kind import DataGenKind
from datagen.records import Draft, Turn
from datagen.rejections import page, why
from datagen.verification import Verification, Verified
from datagen.verifier import Candidate, Verdict, VerifierConfig
from datagen.verifiers.numeric import number_of
from datagen.verifiers.regex import Regex, RegexConfig
from evals.sandbox import why_no_sandbox
from stepserve.contract import BatchItem, BatchOutput, BatchRequest, BatchResult, BatchSampling, ModelRef
from stepserve.jobs.datagen_ports import RejectionQuery
from stepserve.jobs.errors import BadJob, ModelNotServed
from tests.unit.datagen.run_setup import RunSetup, SayingEngine, prompt_of
from tests.unit.evals.adding_engine import MODEL

OTHER = ModelRef(id="other", path="/models/other", digest="sha256:bb")
PATIENT: dict[str, Any] = {"filters": [], "max_similarity": 1.0, "num_examples": 100}
LIMIT_S = 0.05
EVIL = {"type": "string", "pattern": "^(a+)+$"}


def _verified(
    run_setup: RunSetup, verifiers: list[dict[str, Any]], said: dict[str, str], **row: Any
) -> tuple[list[str], dict[str, int], list[dict[str, Any]]]:
    """Which of the replies (by question) pass, the rejections, and the rows."""
    rows = [{"q": question, **row} for question in said]
    engine = SayingEngine(lambda item: said[prompt_of(item)])
    result = run_setup.run(engine, "custom", template="{{q}}", rows=rows, verifiers=verifiers, **PATIENT)
    made = run_setup.rows()
    return [row["messages"][0]["content"] for row in made], result["rejected"], made


@pytest.fixture
def run_setup(tmp_path: Path) -> RunSetup:
    return RunSetup(tmp_path / "base")


def test_a_slow_pattern_takes_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looking, most = 0, 0

    async def to_thread(*_: object) -> bool:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        await asyncio.sleep(0)
        looking -= 1
        return True

    async def scenario() -> None:
        monkeypatch.setattr(asyncio, "to_thread", to_thread)
        verifier, ask = Regex(RegexConfig(pattern="x")), Asking(Ways(cast("Scheduler", None)))
        verdicts = await asyncio.gather(*(verifier.verify(Candidate("q", "x"), ask) for _ in range(5)))
        assert all(verdict.passed for verdict in verdicts)

    asyncio.run(scenario())
    assert most == 1


def test_a_number_that_takes_minutes_to_write_out_is_none() -> None:
    assert number_of("1e999999999") is None
    assert (number_of("1/3"), number_of("$1,250.5"), number_of("1e3")) == (1 / 3, 1250.5, 1000.0)


@pytest.mark.parametrize(
    ("verifier", "row", "said", "passes"),
    [
        (
            {"name": "numeric", "absolute": 0.01},
            {"answer": "3.14"},
            {"first question": "It is 3.14159", "second question": "The answer is 3.2", "third question": "Nothing"},
            ["first question"],
        ),
        (
            {"name": "math", "answer_field": "gold"},
            {"gold": "\\frac{1}{2}"},
            {"first question": "\\boxed{0.5}", "second question": "\\boxed{\\frac{2}{3}}"},
            ["first question"],
        ),
        (
            {"name": "regex", "pattern": "[0-9]{2}", "match": "whole"},
            {},
            {"first question": "12", "second question": "123", "third question": "twelve"},
            ["first question"],
        ),
        (
            {"name": "regex", "pattern": "sorry", "match": "nowhere"},
            {},
            {"first question": "12", "second question": "I am sorry"},
            ["first question"],
        ),
        (
            {"name": "json_schema", "schema": {"type": "object", "required": ["a"]}},
            {},
            {"first question": '```json\n{"a": 1}\n```', "second question": '{"b": 1}', "third question": "no"},
            ["first question"],
        ),
    ],
)
def test_each_verifier_believes_what_it_should(
    run_setup: RunSetup, verifier: dict[str, Any], row: dict[str, Any], said: dict[str, str], passes: list[str]
) -> None:
    passed, rejected, rows = _verified(run_setup, [verifier], said, **row)
    assert passed == passes
    assert rejected == {"not_verified": len(said) - len(passes)}
    assert {(one["metadata"]["verify_method"], one["metadata"]["verify_score"]) for one in rows} == {
        (verifier["name"], 1.0)
    }


def test_code_is_run_against_the_rows_tests(run_setup: RunSetup) -> None:
    if (reason := why_no_sandbox()) is not None:
        pytest.skip(reason)
    said = {
        "double a number": "```python\ndef double(x):\n    return 2 * x\n```",
        "twice as much": "def double(x):\n    return x",
        "never come back": "import signal\ndef double(x):\n    signal.pause()",
    }
    verifier = {"name": "unit_tests", "timeout_s": 10}
    passed, rejected, _ = _verified(run_setup, [verifier], said, tests=["assert double(2) == 4"], entry_point="double")
    assert (passed, rejected) == (["double a number"], {"not_verified": 2})


def test_a_schema_that_hangs_is_a_counted_rejection(tmp_path: Path) -> None:
    run_setup = RunSetup(tmp_path / "base")
    run_setup.kind = DataGenKind(run_setup.layout, render_limit_s=0.5)
    said = {"first question": '"aa"', "second question": json.dumps("a" * 40 + "!")}
    passed, rejected, _ = _verified(run_setup, [{"name": "json_schema", "schema": EVIL}], said)
    assert (passed, rejected) == (["first question"], {"not_verified": 1})


class _Slow:
    """Says nothing before it is let, or before the model that it asks has answered."""

    config_model: ClassVar[type[VerifierConfig]] = VerifierConfig
    models: Sequence[str] = ()

    def __init__(self, *, asks: bool) -> None:
        self._asks = asks
        self.cancelled = False

    @classmethod
    def open(cls, _config: Any, _sources: Any) -> Self:
        return cls(asks=False)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        try:
            if self._asks:
                await ask([BatchItem(prompt=candidate.question)])
            else:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return Verdict(passed=True)


class _SlowEngine:
    """Answers after many times the limit; implements what Asking needs of a scheduler."""

    async def ask(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        for _ in range(40):
            await asyncio.sleep(LIMIT_S / 4)
        return [BatchOutput(text="yes", finish_reason="stop") for _ in items]


def test_an_installed_verifier_that_hangs_is_a_counted_rejection_and_a_slow_engine_is_not() -> None:
    draft = Draft((Turn("user", "q"), Turn("assistant", "a")), "", "", BatchSampling())

    async def verified(verifier: _Slow) -> Verified:
        ask = Asking(Ways(cast("Scheduler", _SlowEngine())))
        async with Verification([("theirs", verifier)], None, LIMIT_S) as verification:
            return await verification.verified(draft, ask)

    hanging = _Slow(asks=False)
    found = asyncio.run(verified(hanging)).rejection
    assert found is not None
    assert (found.reason, why(found.reason, found.detail)) == ("verifier_hung", "theirs: no verdict within 0.05 s")
    assert hanging.cancelled
    assert asyncio.run(verified(_Slow(asks=True))).rejection is None


def test_all_have_to_pass_and_the_row_names_them(run_setup: RunSetup) -> None:
    said = {"What is 1+2?": "3", "What is 2+2?": "four", "What is 2+3?": "55"}
    verifiers = [{"name": "regex", "pattern": "[0-9]"}, {"name": "regex", "pattern": ".", "match": "whole"}]
    passed, _, rows = _verified(run_setup, verifiers, said)
    assert passed == ["What is 1+2?"]
    assert rows[0]["metadata"]["verify_method"] == "regex+regex"
    report = json.loads(next(run_setup.layout.runs.glob("data_gen/*/report.json")).read_text())
    assert report["yield"]["by_verifier"]["regex"] == {"passed": 2, "failed": 2, "yield": 0.5}


class _TwoModels(SayingEngine):
    """The other one answers what `theirs` says."""

    def __init__(self, theirs: BatchOutput | str) -> None:
        super().__init__(lambda item: str(sum(map(int, prompt_of(item).split("+")))))
        self._theirs = theirs

    async def generate(self, request: BatchRequest) -> BatchResult:
        if request.model != OTHER.id:
            return await super().generate(request)
        mine, self._answer = self._answer, lambda _: self._theirs
        self.digest = OTHER.digest
        try:
            return await super().generate(request)
        finally:
            self._answer, self.digest = mine, MODEL.digest


def test_a_second_model_has_to_agree(run_setup: RunSetup) -> None:
    rows = [{"q": "1+2"}, {"q": "2+2"}]
    verifiers = [{"name": "second_model", "model": OTHER.id}]
    config = run_setup.check("custom", template="{{q}}", rows=rows, verifiers=verifiers, **PATIENT)
    context = run_setup.context(config, _TwoModels("The answer is 3."))
    with pytest.raises(BadJob, match=r"config.verifiers: there is no model 'other'"):
        run_setup.go(context)
    context.others = {OTHER.id: OTHER}
    context.no_room = True
    with pytest.raises(ModelNotServed):
        run_setup.go(context)
    context.no_room = False
    result = run_setup.go(context)
    assert (result["accepted"], result["rejected"]) == (1, {"not_verified": 1})
    assert run_setup.rows()[0]["metadata"]["verify_method"] == "second_model"


def _judging(item: BatchItem) -> str:
    """Marks what ends with `good` with a 5, says nothing about `odd`, and answers questions."""
    prompt = prompt_of(item)
    if not prompt.endswith("Mark:"):
        return f"{prompt} is {'good' if '1' in prompt else 'bad'}"
    return "5" if "good\n" in prompt else "hm" if "odd\n" in prompt else "2"


def test_a_judge_is_calibrated_before_the_first_example(run_setup: RunSetup) -> None:
    labels = [("good", True), ("good", "good"), ("bad", 2), ("bad", "good"), ("odd", False)]
    lines = [json.dumps({"question": "q", "answer": answer, "label": label}) for answer, label in labels]
    (run_setup.layout.base / "labels.jsonl").write_text("\n".join(lines))
    config = {"template": "{{q}}", "rows": [{"q": "row 1"}, {"q": "row 2"}], **PATIENT}
    judge = {"rubric": ["It is polite."], "calibration": "labels.jsonl"}
    engine = SayingEngine(_judging)
    result = run_setup.run(engine, "custom", **config, judge=judge)
    assert result["judge_calibration"] == {
        "rows": 5, "agreement": 0.8, "kappa": 0.6154, "false_accepts": 0, "false_rejects": 1, "without_mark": 1,
    }  # fmt: skip
    assert "- It is polite." in prompt_of(engine.items[0])
    assert (result["accepted"], result["rejected"]) == (1, {"judge": 1})
    assert run_setup.rows()[0]["metadata"]["verify_method"] == "judge"
    with pytest.raises(BadJob, match=r"config\.judge\.min_agreement: at least 0.9 was asked for; the judge has rows 5"):
        run_setup.run(
            SayingEngine(_judging), "custom", job="data_gen_2", **config, judge=judge | {"min_agreement": 0.9}
        )


def test_a_judge_that_is_down_is_named_or_counted(run_setup: RunSetup) -> None:
    rows = [{"q": "1+2"}, {"q": "2+2"}]
    config = run_setup.check("custom", template="{{q}}", rows=rows, judge={"model": OTHER.id}, **PATIENT)
    engine = _TwoModels(BatchOutput(error="the engine died"))
    context = run_setup.context(config, engine)
    with pytest.raises(BadJob, match=r"config.judge: there is no model 'other'"):
        run_setup.go(context)
    assert engine.requests == [], "nobody was asked"
    context.others = {OTHER.id: OTHER}
    with pytest.raises(BadJob, match=r"not one example passed after 2 attempts; rejected: judge_without_mark 2"):
        run_setup.go(context)
    dropped = page(context.run_dir, RejectionQuery(None, None, 10))["rejected"]
    assert {one["why"] for one in dropped} == {"the judge gave no mark: it cannot be asked: the engine died"}


def test_a_question_about_the_judges_own_prompt_stays_what_it_is(run_setup: RunSetup) -> None:
    engine = SayingEngine(lambda item: "5" if prompt_of(item).endswith("Mark:") else "secret")
    rows = [{"q": "What does {answer} stand for?"}]
    run_setup.run(engine, "custom", template="{{q}}", rows=rows, judge={"min_score": 4}, **PATIENT)
    asked = prompt_of(engine.items[-1])
    assert "What does {answer} stand for?" in asked
    assert asked.count("secret") == 1


def test_agreement_is_what_cohen_says() -> None:
    passed = [True] * 20 + [True] * 10 + [False] * 5 + [False] * 15
    labels = [True] * 20 + [False] * 10 + [True] * 5 + [False] * 15
    found = agreement(passed, labels)
    assert (found["agreement"], found["kappa"]) == (0.7, 0.4)  # the example of Cohen's kappa in textbooks
    assert agreement([True, True], [True, True])["kappa"] == 0.0


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"verifiers": [{"name": "magic"}]}, "config.verifiers.0.name: 'magic' is not a verifier; known are numeric"),
        ({"verifiers": [{}]}, "config.verifiers.0.name: 'None' is not a verifier"),
        ({"verifiers": [{"name": "regex"}]}, "config.verifiers.0.pattern: is missing"),
        ({"verifiers": [{"name": "regex", "pattern": "("}]}, "config.verifiers.0.pattern: is not a regular expression"),
        ({"verifiers": [{"name": "numeric", "x": 1}]}, "config.verifiers.0.x: unknown field"),
        ({"verifiers": [{"name": "json_schema", "schema": {"type": 1}}]}, "config.verifiers.0.schema: type: 1 is"),
        ({"judge": {"min_agreement": 0.5}}, "config.judge: min_agreement needs a calibration file"),
        ({"judge": {"calibration": "none.jsonl"}}, "config.judge.calibration: there is no file 'none.jsonl'"),
        ({"judge": {"calibration": "bad.jsonl"}}, "config.judge.calibration: bad.jsonl, line 2: 'label' is not"),
        ({"judge": {"prompt": "p", "rubric": ["r"]}}, "config.judge: prompt and rubric do not go together"),
    ],
)
def test_bad_settings_are_refused_before_there_is_a_job(run_setup: RunSetup, config: dict[str, Any], said: str) -> None:
    good, bad = ({"question": "q", "answer": "a", "label": label} for label in (True, 7))
    (run_setup.layout.base / "bad.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
    assert said in run_setup.refusal("custom", template="{{q}}", rows=[{"q": "x"}], **config)
