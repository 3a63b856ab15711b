import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from evals.formats import parse_sample
from evals.judge import AllowedJudges, Judge, JudgeSpec, judge_by_id, judge_by_url
from evals.record import MetricScore, SampleRecord, record_of
from stepserve.contract import BatchOutput, BatchRequest, BatchResult
from stepserve.jobs.errors import BadJob, Invalid, ModelNotServed
from tests.threaded_server import threaded
from tests.unit.evals.adding_engine import AddingEngine


class JudgeServer:
    """A real HTTP server that speaks as a chat model; `replies` are given in turn, the last for ever."""

    def __init__(self) -> None:
        self.replies: list[tuple[int, str]] = [(200, "CORRECT")]
        self.asked: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        judge_server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                judge_server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                judge_server.authorizations.append(self.headers.get("authorization"))
                status, said = judge_server.replies.pop(0) if len(judge_server.replies) > 1 else judge_server.replies[0]
                body = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def judge_server() -> Iterator[JudgeServer]:
    judge_server = JudgeServer()
    with threaded(judge_server.server):
        yield judge_server


def _record() -> SampleRecord:
    sample = parse_sample(b'{"input": "Capital of France?", "ideal": ["Paris", "Lutetia"]}', line=1, index=0)
    return record_of(sample, BatchOutput(text="It is Paris.", finish_reason="stop"), "sha256:aa")


def _grade(judge: Judge) -> MetricScore:
    async def run() -> MetricScore:
        async with judge:
            return await judge.grade(_record(), "It is Paris.")

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("said", "correct", "parsed"),
    [
        ("CORRECT", True, True),
        ("Incorrect.", False, True),
        ("It seems incorrect at first, but: CORRECT", True, True),
        ("<think>INCORRECT? no</think>CORRECT", True, True),
        ("<think>CORRECT, I would say", False, False),
        ("I cannot tell", False, False),
    ],
)
def test_the_verdict_is_the_last_word(judge_server: JudgeServer, said: str, correct: bool, parsed: bool) -> None:
    judge_server.replies = [(200, said)]
    score = _grade(judge_by_url(JudgeSpec(model="big", url=judge_server.url), AllowedJudges([judge_server.url])))
    assert (score.correct, score.parsed, score.error) == (correct, parsed, None)
    assert score.detail in {"CORRECT", "INCORRECT", f"no verdict in a reply of {len(said)} characters"}
    (asked,) = judge_server.asked
    assert (asked["model"], asked["temperature"]) == ("big", 0)
    for part in ("Capital of France?", "Paris or Lutetia", "It is Paris."):
        assert part in asked["messages"][0]["content"]


async def test_what_an_answer_says_is_no_template(judge_server: JudgeServer) -> None:
    spec = JudgeSpec(model="big", url=judge_server.url, template="{{prediction}} {{question}}")

    async with judge_by_url(spec, AllowedJudges([judge_server.url])) as judge:
        await judge.grade(_record(), "{{target}}")
    assert judge_server.asked[0]["messages"][0]["content"] == "{{target}} Capital of France?"


@pytest.mark.parametrize("template", ["{{prediction}} {{answer}}", "Is {{question}} easy?"])
def test_a_template_that_shows_no_answer_or_what_there_is_not(template: str) -> None:
    with pytest.raises(ValidationError, match=r"is none of question, target|does not see the answer"):
        JudgeSpec(model="big", template=template)


def test_a_key_goes_to_its_own_url_alone(judge_server: JudgeServer) -> None:
    allowed = AllowedJudges([judge_server.url + "/other"], {judge_server.url + "/": SecretStr("secret")})
    _grade(judge_by_url(JudgeSpec(model="big", url=judge_server.url), allowed))
    _grade(judge_by_url(JudgeSpec(model="big", url=judge_server.url + "/other"), allowed))
    assert judge_server.authorizations == ["Bearer secret", None]


def test_a_judge_in_trouble_is_asked_again(judge_server: JudgeServer) -> None:
    judge_server.replies = [(503, ""), (429, ""), (200, "CORRECT")]
    assert (
        _grade(judge_by_url(JudgeSpec(model="big", url=judge_server.url), AllowedJudges([judge_server.url]))).correct
        is True
    )


def test_a_judge_that_refuses_is_an_error_and_no_verdict(judge_server: JudgeServer) -> None:
    judge_server.replies = [(401, "")]
    score = _grade(judge_by_url(JudgeSpec(model="big", url=judge_server.url), AllowedJudges([judge_server.url])))
    assert (score.value, score.parsed) == (0.0, False)
    assert "answered 401" in str(score.error)
    assert len(judge_server.asked) == 1


class Bench(AddingEngine):
    """An engine with one judge in it."""

    def __init__(self, loaded: str) -> None:
        super().__init__()
        self.loaded = loaded

    async def generate(self, request: BatchRequest) -> BatchResult:
        if request.model != self.loaded:
            raise ModelNotServed(f"{request.model} is not loaded")
        return BatchResult(model=request.model, digest="sha256:bb", outputs=[BatchOutput(text="CORRECT")])


def test_a_model_of_this_server_judges() -> None:
    assert _grade(judge_by_id(JudgeSpec(model="judge"), Bench("judge"))).correct is True
    with pytest.raises(BadJob, match="judge: another is not loaded"):
        _grade(judge_by_id(JudgeSpec(model="another"), Bench("judge")))


@pytest.mark.parametrize("url", ["ftp://host/v1", "http://user@host/v1", "http://host/v1?a=b", "host/v1"])
def test_urls_that_are_none(url: str) -> None:
    with pytest.raises(ValidationError):
        JudgeSpec(model="big", url=url)


ALLOWED = AllowedJudges(["http://Judge.lan:80/v1/"], {"https://api.example/v1": SecretStr("secret")})


@pytest.mark.parametrize("url", ["http://judge.lan/v1", "http://judge.lan:80/v1/", "https://API.example:443/v1"])
def test_urls_that_settings_name_in_any_spelling(url: str) -> None:
    assert ALLOWED.url_of(JudgeSpec(model="big", url=url)) in {"http://judge.lan/v1", "https://api.example/v1"}


@pytest.mark.parametrize(
    "url",
    [
        "http://judge.lan/v2", "http://judge.lan", "https://judge.lan/v1", "http://judge.lan:8080/v1",
        "http://judge.lan/v1/..", "http://judge.lan.evil/v1", "http://169.254.169.254/latest", "http://judge.lan:x/v1",
    ],
)  # fmt: skip
def test_any_other_url_is_refused_naming_the_setting(url: str) -> None:
    with pytest.raises(Invalid, match=r"judge\.url: .*(judge_urls|not a URL|[Pp]ort)"):
        judge_by_url(JudgeSpec(model="big", url=url), ALLOWED)


def test_templates_do_not_multiply_an_answer() -> None:
    with pytest.raises(ValidationError, match="17 fields are more than 16"):
        JudgeSpec(model="big", template="{{prediction}}" * 17)
