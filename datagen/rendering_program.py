"""Fills templates and checks answers where it can be killed: `python -m datagen.rendering_program`, JSON lines.

    first   {"templates": {name: text}, "schemas": {name: …}}   {} or {"refused": [name, why]}
    then    {"row", "texts": [name]}                            {"texts": [text]} or {"failed": why}
    or      {"row", "texts", "said", "schema": name or null}    likewise, or {"rejected": [reason, why]}

`said` is a model's answer: with a schema it is JSON and has to fit. Templates and schemas are a stranger's, the row and
the answer may be long: a pattern of the schema or a comparison in a template can take hours, and holds up all of Python
meanwhile.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from typing import Any

from datagen.templates import PromptTemplate, TemplateFailed
from stepserve.process import follow_parent

MEMORY_LIMIT_BYTES = 1024**3


class Renderer:
    def __init__(self, templates: Mapping[str, str], schemas: Mapping[str, dict[str, Any]]) -> None:
        """Raises Unusable."""
        self._templates: dict[str, PromptTemplate] = {}
        for name, text in templates.items():
            try:
                self._templates[name] = PromptTemplate(text)
            except TemplateFailed as error:
                raise Unusable(name, str(error)) from error
        self._validators = {name: _validator_of(schema) for name, schema in schemas.items()}

    def answer(self, task: Mapping[str, Any]) -> dict[str, Any]:
        row = task["row"]
        names = {**row, "row": row}
        try:
            if "said" in task:
                names["output"], rejection = self._checked(task["said"], task["schema"])
                if rejection is not None:
                    return {"rejected": rejection}
            return {"texts": [self._templates[name].render(names) for name in task["texts"]]}
        except TemplateFailed as error:
            return {"failed": str(error)}
        except MemoryError:
            return {"failed": f"takes more than {MEMORY_LIMIT_BYTES >> 20} MiB of memory"}

    def _checked(self, said: str, schema: str | None) -> tuple[Any, list[str] | None]:
        """The answer as templates know it, and why it is none."""
        if schema is None:
            return said.strip(), None
        try:
            answer = json.loads(said)
            wrong = next(self._validators[schema].iter_errors(answer), None)
        except RecursionError:
            return None, ["schema", "the answer or the schema goes too deep"]
        except ValueError:
            return None, ["not_json", ""]
        except Exception as error:  # noqa: BLE001 - jsonschema raises whatever a schema that it accepted makes it do
            return None, ["schema", f"{type(error).__name__}: {error}"[:200]]
        return answer, None if wrong is None else ["schema", str(wrong.message)[:200]]


class Unusable(Exception):
    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


def _validator_of(schema: dict[str, Any]) -> Any:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - a tenth of a second, for those who have a schema

    return Draft202012Validator(schema)


def main() -> None:
    follow_parent(signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    first = json.loads(sys.stdin.buffer.readline())
    renderer = None
    answer: dict[str, Any] = {}
    try:
        renderer = Renderer(first["templates"], first["schemas"])
    except Unusable as error:
        answer = {"refused": [error.field, str(error)]}
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    if renderer is not None:
        for line in sys.stdin.buffer:
            answers.write(json.dumps(renderer.answer(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
