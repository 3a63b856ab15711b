"""`python -m control.checkpoints.template_program`: renders sample conversations with templates given on stdin as JSON.

A process of its own, with a bound on time and memory, because a template can do what no other check sees. It prints the
name of each template before it is tried, and after it what is wrong with it: `fault`, if that would hurt others,
`broken`, if it cannot render one plain question.
"""

import json
import resource
import signal
import sys
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from setproctitle import setproctitle

from stepserve.chat_template import BoundedEnvironment, TemplateTooExpensive
from stepserve.process import follow_parent

CPU_S = 15
MEMORY_BYTES = 2 * 1024**3

_TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}},
    },
}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": {"a": 17, "b": 25}}}


class Generation(jinja2.ext.Extension):
    """`{% generation %}` … `{% endgeneration %}`, with which trainers mark what a model says."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def conversations() -> list[dict[str, Any]]:
    """What a template is given; none of it is large, so none of it takes an honest template long."""
    question, answer = {"role": "user", "content": "What is 17+25?"}, {"role": "assistant", "content": "42"}
    system = {"role": "system", "content": "Answer briefly."}
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "17+25?"}]
    called = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
    told = {"role": "tool", "tool_call_id": "call_1", "name": "add", "content": "42"}
    return [
        {"messages": [question]},
        {"messages": [system, question, answer, question]},
        {"messages": [question, answer], "add_generation_prompt": False},
        {"messages": [system, question], "tools": [_TOOL]},
        {"messages": [question, called, told], "tools": [_TOOL], "enable_thinking": True},
        {"messages": [{"role": "user", "content": parts}]},
        {"messages": [{"role": "user", "content": "Why? " * 4000}]},
        {"messages": [system, *[question, answer] * 100, question]},
    ]


def environment() -> BoundedEnvironment:
    """As transformers has it (transformers.utils.chat_template_utils)."""
    found = BoundedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    found.filters["tojson"] = _tojson
    found.globals["raise_exception"] = _raise
    found.globals["strftime_now"] = lambda form: "2026-11-29"  # noqa: ARG005 - any date does
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fault`: why the template must not be served. `broken`: why it is of no use, which harms nobody else."""

    fault: str | None = None
    broken: str | None = None


def verdict_on(text: str) -> Verdict:
    try:
        template = environment().from_string(text)
    except (TemplateTooExpensive, MemoryError) as error:
        return Verdict(fault=str(error) or "it takes too much memory to compile")
    except jinja2.TemplateSyntaxError as error:
        return Verdict(broken=f"line {error.lineno}: {error.message}")
    except Exception as error:  # noqa: BLE001 - whatever a stranger's template raises
        return Verdict(broken=f"{type(error).__name__}: {error}")
    broken = None
    for number, asked in enumerate(conversations()):
        try:
            rendered = template.render(
                **{
                    "add_generation_prompt": True,
                    "tools": None,
                    "documents": None,
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                }
                | asked
            )
            if number == 0 and asked["messages"][0]["content"] not in rendered:
                broken = "the rendered prompt does not contain the question"
        except TemplateTooExpensive as error:
            return Verdict(fault=str(error))
        except MemoryError:
            return Verdict(fault="it takes too much memory")
        except Exception as error:  # noqa: BLE001 - likewise; a template may refuse a conversation
            if number == 0:
                broken = f"{type(error).__name__}: {error}"
    return Verdict(broken=broken)


def main() -> int:
    setproctitle("stepserve: chat templates")
    follow_parent(signal.SIGKILL)
    templates: dict[str, str] = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for name, text in templates.items():
        print(json.dumps({"tries": name}), flush=True)
        verdict = verdict_on(text)
        print(json.dumps({"tried": name, "fault": verdict.fault, "broken": verdict.broken}), flush=True)
    return 0


def _tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    sys.exit(main())
