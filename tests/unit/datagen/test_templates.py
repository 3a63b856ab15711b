import time

import pytest

from datagen.templates import PromptTemplate, TemplateFailed

ROW = {"name": "Ada", "choices": ["red", "blue"], "more": {"year": 1843, "tags": []}, "long": "x" * 3000}


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("Hello {{ name }}!", "Hello Ada!"),
        ("{{ row.more.year }} {{ more['year'] }}", "1843 1843"),
        ("{% for choice in choices %}{{ loop.index }}. {{ choice }}\n{% endfor %}", "1. red\n2. blue\n"),
        ("{% if more.tags %}some{% else %}none{% endif %} {{ choices | join(' or ') }}", "none red or blue"),
        ("{{ more | tojson }} {{ missing | default('-') }}", '{"year": 1843, "tags": []} -'),
    ],
)
def test_what_prompts_need(text: str, made: str) -> None:
    assert PromptTemplate(text).render({**ROW, "row": ROW}) == made


@pytest.mark.parametrize(
    "text",
    [
        "{{ name",
        "{{ name.__class__ }}",
        "{{ name['__class__'] }}",
        "{{ name | attr('__class__') }}",
        "{{ cycler.__init__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ ''.join(choices) }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'x' * 1000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ range(10) }}",
        "{% for i in range(1000000000) %}x{% endfor %}",
        "{% for a in choices recursive %}{{ loop(choices) }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% set x = 'a' %}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{{ name | nonsense }}",
        "(" * 3000 + "{{ " + "(" * 3000,
    ],
)
def test_what_a_template_must_not_do_is_refused_before_it_runs(text: str) -> None:
    with pytest.raises(TemplateFailed):
        PromptTemplate(text).render({**ROW, "row": ROW})


@pytest.mark.parametrize(
    "text",
    [
        "{{ missing }}",
        "{{ long | replace('x', long) }}",
        "{{ choices | join(long) }}{{ choices | join(long) }}" * 40,
        "{% for a in long %}{% for b in long %}{% endfor %}{% endfor %}",
        "{% for a in many %}{% for b in many %}{% endfor %}{% endfor %}",
    ],
)
def test_what_grows_without_bound_is_stopped(text: str) -> None:
    started = time.process_time()
    with pytest.raises(TemplateFailed):
        PromptTemplate(text).render({**ROW, "many": list(range(5000))})
    assert time.process_time() - started < 5
