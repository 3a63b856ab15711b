"""Chat templates of strangers: none keeps a registration or a server, and honest ones say what they said before."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import jinja2.meta
import jinja2.sandbox
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from control.checkpoints.chat_templates import check_templates
from control.checkpoints.template_program import conversations
from control.errors import Invalid
from gateway.engine.patches.bounded_templates import bound_templates
from gateway.missing_template import in_our_words
from stepserve.chat_template import BoundedEnvironment, TemplateTooExpensive
from stepserve.contract import ModelRef
from stepserve.named_templates import template_text
from stepserve.settings import EngineSettings
from tests.integration.control_plane import control_plane
from tests.unit.control.checkpoint_files import write_checkpoint

DEMO = Path(__file__).parents[2] / "demo" / "checkpoints"
LOOP = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
POWER = "{{ 9 ** 999999999 }}"
GROW = "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}"
NEST = "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
HOSTILE = [
    LOOP,
    "{% for a in 'x' * 9999 %}{% for b in 'x' * 9999 %}{% for c in 'x' * 9999 %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    POWER,
    "{% set x = 9 %}{{ x ** 999999999 }}",
    "{% set n = namespace(x=10) %}{% for i in range(100) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{{ 'a' * 10000000000 }}",
    "{{ 10000000000 * [1] }}",
    GROW.replace("OP", "~"),
    GROW.replace("OP", "+"),
    NEST + "{{ n.x }}",
    NEST + "{{ n.x | tojson }}",
    NEST + "{{ n.x ~ '' }}",
    "{{ 'a' | center(10000000000) }}",
    "{{ 'a'.ljust(10000000000) }}",
    "{{ '%10000000000d' | format(1) }}",
    "{{ '%*d' % (10000000000, 1) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10000000000) }}",
    "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
    "{% set s = 'a' * 1000000 %}{{ s.join(s) }}",
    "{% set s = 'a' * 100000 %}{% for i in range(100000) %}{{ s }}{% endfor %}",
    "{% set s = 'a' * 100000 %}{% set t %}{% for i in range(100000) %}{{ s }}{% endfor %}{% endset %}",
]
HONEST = (
    "{% for m in messages if m.role != 'tool' %}{{ loop.index }}/{{ loop.length }}{% if loop.first %}{{ bos_token }}"
    "{% endif %}<|{{ m['role'] | upper }}|>{% if m.content is string %}{{ m.content | trim }}{% else %}"
    "{% for part in m.content %}{{ part.text + '\n' }}{% if loop.last %}.{% endif %}{% endfor %}{% endif %}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson(indent=2) }}{% endif %}{% endfor %}{{ tools | tojson }}"
    "{{ '%s-%d' % ('a', 1 + 2 * 3) }}{{ '=' * 20 }}{{ ('a' ~ 1) | replace('a', 'b') | indent(4) }}{{ [1] + [2] }}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ none }}{{ nothing }}{{ 5 // 2 }}{{ {'a': [1]} }}"
)


def rendered(template: str, asked: dict[str, Any]) -> str:
    asked = {"bos_token": "<s>", **asked}
    texts, _ = chat_template_utils.render_jinja_template([asked.pop("messages")], chat_template=template, **asked)
    return str(texts[0])


@pytest.mark.parametrize("template", HOSTILE)
def test_a_hostile_template_ends_in_the_thread_that_renders_it(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can end that thread from outside, and some of these would hold the interpreter's lock."""
    monkeypatch.setattr(chat_template_utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment)
    bound_templates()
    with pytest.raises(TemplateTooExpensive):
        rendered(template, {"messages": [{"role": "user", "content": "hi"}]})


def test_looking_for_a_templates_variables_works_no_constant_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM does before each new template is rendered; this would hold the interpreter's lock for ever."""
    monkeypatch.setattr(jinja2.sandbox, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment)
    bound_templates()
    parsed = jinja2.sandbox.ImmutableSandboxedEnvironment().parse("{% if never %}" + POWER + "{% endif %}")
    assert jinja2.meta.find_undeclared_variables(parsed) == {"never"}


def test_an_honest_template_says_what_it_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for sandbox in (ImmutableSandboxedEnvironment, BoundedEnvironment):
        monkeypatch.setattr(chat_template_utils, "ImmutableSandboxedEnvironment", sandbox)
        chat_template_utils._compile_jinja_template.cache_clear()
        said.append([rendered(HONEST, dict(asked)) for asked in conversations()])
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("chat_template.jinja", POWER, "a number too large"),
        ("chat_template.jinja", "x" * 300_000, "is longer than 262144"),
        ("chat_template.jinja", "{% if messages | length > 50 %}" + LOOP + "{% endif %}", "longer than 2 s"),
        ("chat_templates/tools.jinja", POWER, "chat_templates/tools.jinja: the chat template cannot be served"),
        ("tokenizer_config.json", {"chat_template": POWER}, "tokenizer_config.json: the chat template cannot be"),
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "x", "template": POWER}]},
            "template 0: the",
        ),
        ("chat_template.json", {"chat_template": {"rag": POWER}}, "chat_template.json, template 'rag': the"),
    ],
)
def test_a_template_that_cannot_be_served_is_refused_when_its_model_comes(
    name: str, content: Any, fault: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(Invalid, match=fault):
        check_templates(tmp_path)


@pytest.mark.parametrize("text", [HONEST, "{% if", "{{ raise_exception('no system prompt') }}", "{{ 1 / 0 }}"])
def test_a_template_that_harms_nobody_else_is_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text(text)
    check_templates(tmp_path)


def test_a_template_that_its_process_does_not_survive(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ 'a program that dies of this' }}")
    with pytest.raises(Invalid, match="takes too long or too much memory"):
        check_templates(tmp_path, ("/bin/sh", "-c", 'echo \'{"tries": "chat_template.jinja"}\'; kill -9 $$'))


async def test_registering_answers_422_and_others_are_served_meanwhile(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "base") as here:
        folder = write_checkpoint(here.layout.models / "loops")
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": LOOP + "{# here #}"}))
        refusal = asyncio.create_task(here.refused(422, "/models/register", id="loops", source="test"))
        while not refusal.done():
            assert (await here.get("/models"))["models"] == []
            await asyncio.wait({refusal}, timeout=0.05)
        assert "tokenizer_config.json: the chat template cannot be served" in refusal.result()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, at its import
def test_vllm_is_given_the_models_template_and_its_refusal_without_one_is_known(tmp_path: Path) -> None:
    """By vLLM's own code, without an engine: tests/e2e/test_chat_templates.py has the routes."""
    from vllm.renderers.chat_utils import ChatTemplateResolutionError, load_chat_template  # noqa: PLC0415 - seconds
    from vllm.renderers.hf import safe_apply_chat_template  # noqa: PLC0415 - likewise

    from gateway.engine.config import engine_config  # noqa: PLC0415 - likewise

    folder = tmp_path / "bare"
    shutil.copytree(DEMO / "step-1500", folder)
    (folder / "chat_template.jinja").unlink()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def prompt(template: str | None) -> Any:
        model = ModelRef(id="bare", path=str(folder), digest="sha256:0", chat_template=template)
        args, config = engine_config(model, EngineSettings())
        return safe_apply_chat_template(
            config.model_config,
            tokenizer,
            [{"role": "user", "content": "What is 17+25?"}],
            chat_template=load_chat_template(args.chat_template),
            tokenize=False,
            add_generation_prompt=True,
        )

    expected = "<|im_start|>user\nWhat is 17+25?<|im_end|>\n<|im_start|>assistant\n"
    assert prompt(template_text("chatml", tmp_path)) == expected
    assert prompt(template_text("plain", tmp_path)) == "User: What is 17+25?\n\nAssistant:"
    with pytest.raises(ChatTemplateResolutionError) as refused:
        prompt(None)
    assert "`bare` has no chat template" in (in_our_words(str(refused.value), "bare") or "")
