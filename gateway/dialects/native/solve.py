"""POST /solve/math and /solve/coding: a problem under a system prompt, and the answer taken out of the solution."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from gateway.dialects.call import Call, Json
from gateway.dialects.native.answers import code_block, math_answer
from gateway.dialects.native.deltas import Deltas
from gateway.dialects.native.generate import parts_of, sampled
from gateway.dialects.native.prompts import Prompts, Task
from gateway.dialects.native.sampling import Sampling
from gateway.dialects.served import Served
from gateway.http.error_rendering import Failure

_PATH = "/v1/chat/completions"
_OF_ROLES = re.compile(r"\broles?\b", re.IGNORECASE)


class SolveRequest(Sampling):
    problem: str
    stream: bool = False


class MathRequest(SolveRequest):
    DEFAULTS: ClassVar[Json] = {"max_tokens": 512, "temperature": 0.7}


class CodingRequest(SolveRequest):
    DEFAULTS: ClassVar[Json] = {"max_tokens": 1024, "temperature": 0.8}


@dataclass(frozen=True, slots=True)
class Solve:
    """`extract` finds the `result` (a field of the answer) in a solution's text."""

    task: Task
    result: str
    extract: Callable[[str], str | None]
    prompts: Prompts
    served: Served

    async def __call__(self, call: Call, request: SolveRequest) -> None:
        system = self.prompts.of(self.task)
        plain = sampled(self.served, request, request.model_name, _PATH) | {
            "messages": [{"role": "user", "content": request.problem}]
        }
        body = plain
        if system:
            body = plain | {"messages": [{"role": "system", "content": system}, *plain["messages"]]}

        def without_system(failure: Failure) -> tuple[str, Json] | None:
            """Templates that know no such role refuse: "System role not supported", "Conversation roles must …"."""
            refused = system and failure.status == 400 and _OF_ROLES.search(failure.message)
            return (_PATH, plain) if refused else None

        if request.stream:
            deltas = Deltas(lambda heard: self._solved(call, request, heard.text), thinking=True)
            await call.stream(_PATH, body, deltas, without_system)
        else:
            await call.whole(
                _PATH,
                body,
                lambda answer: self._solved(call, request, parts_of(answer["choices"][0], thinking=True).content),
                without_system,
            )

    def _solved(self, call: Call, request: SolveRequest, solution: str) -> Json:
        return {
            "problem": request.problem,
            "solution": solution,
            self.result: self.extract(solution),
            "generation_time": round(call.timing.total_ns / 1e9, 6),
        }


def solve_math(prompts: Prompts, served: Served) -> Solve:
    return Solve("math", "answer", math_answer, prompts, served)


def solve_coding(prompts: Prompts, served: Served) -> Solve:
    return Solve("coding", "code", code_block, prompts, served)
