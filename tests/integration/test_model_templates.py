"""Chat templates that a model is registered, pulled or configured with: which one the engine is given."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from stepserve.contract import ModelRef
from stepserve.named_templates import BUILT_IN, template_text
from tests.eventually import eventually
from tests.integration.adapter_files import write_adapter, write_base
from tests.integration.control_plane import ControlPlane, control_plane, run_sql
from tests.integration.fake_hub import FakeHub
from tests.integration.pulls import add, ended, pull, pulling
from tests.integration.test_adapters import ENGINE
from tests.unit.control.checkpoint_files import write_checkpoint

OWN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
NOWHERE = Path("/nowhere")


def write_with_template(folder: Path, seed: int = 0) -> None:
    write_checkpoint(folder, seed)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": OWN}))


async def row(here: ControlPlane, model_id: str) -> Any:
    return next(model for model in (await here.get("/models"))["models"] if model["id"] == model_id)


async def activated(here: ControlPlane, model_id: str) -> ModelRef:
    """What the gateway is given."""
    await here.post("/models/set_active", id=model_id)
    return here.gateway.asked[-1].model


@pytest.mark.parametrize("name", BUILT_IN)
async def test_every_built_in_template_serves(name: str, tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        told = await here.post("/models/register", id="a", source="t", chat_template=name)
        assert (told["warnings"], told["chat_template"]) == ([], "registered")
        assert (await activated(here, "a")).chat_template == template_text(name, NOWHERE)


async def test_a_model_without_a_template_says_so_and_one_that_is_given_is_served(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "bare")
        write_with_template(here.layout.models / "own")
        (warning,) = (await here.post("/models/register", id="bare", source="t"))["warnings"]
        assert "bare has no chat template" in warning
        assert "chat_template (alpaca, chatml, plain" in warning
        own = await here.post("/models/register", id="own", source="t")
        assert own["warnings"] == []
        bare = await row(here, "bare")
        assert (bare["chat_template"], bare["warnings"]) == (None, [warning])
        assert (await row(here, "own"))["chat_template"] == "checkpoint"
        assert (await activated(here, "bare")).chat_template is None
        assert (await activated(here, "own")).chat_template is None, "its own, which the engine finds by itself"


async def test_another_template_is_other_content(tmp_path: Path) -> None:
    """It is in the digest, so it is neither ignored nor mixed up with answers under the one before."""
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        bare = await here.post("/models/register", id="a", source="t")
        refusal = await here.refused(409, "/models/register", id="a", source="t", chat_template="chatml")
        assert "a is registered with another chat_template" in refusal
        assert "`replace: true`" in refusal
        before = await activated(here, "a")
        given = await here.post("/models/register", id="a", source="t", chat_template="chatml", replace=True)
        assert given["replaced"] == bare["digest"] != given["digest"]
        assert given["activation"]["id"] == "a", "the active model is switched to it"
        now = here.gateway.asked[-1].model
        assert now.chat_template == template_text("chatml", NOWHERE)
        assert before.signature is not None
        assert now.signature is not None
        assert before.signature.tokenizer_sha != now.signature.tokenizer_sha, "no switch in place"
        assert before.path == now.path, "the files stay where they are"
        assert (Path(now.path) / "config.json").is_file()

        again = await here.post("/models/register", id="a", source="a retry that names none")
        assert (again["existing"], again["digest"]) == (True, given["digest"])
        same = await here.post("/models/register", id="a", source="t", chat_template="chatml")
        assert same["existing"] is True
        assert (await row(here, "a"))["chat_template"] == "registered"


async def test_an_id_keeps_its_template_until_its_files_bring_one(tmp_path: Path) -> None:
    """A trainer's script says `register {id, source}` each time, and writes into the same folder."""
    async with control_plane(tmp_path) as here:
        folder = here.layout.models / "latest"
        write_checkpoint(folder)
        await here.post("/models/register", id="latest", source="t", chat_template="chatml")
        for seed, bring, expected in ((1, False, template_text("chatml", NOWHERE)), (2, True, None)):
            shutil.rmtree(folder)
            (write_with_template if bring else write_checkpoint)(folder, seed)
            told = await here.post("/models/register", id="latest", source="t")
            assert (told["warnings"], "replaced" in told) == ([], True)
            assert (await activated(here, "latest")).chat_template == expected


async def test_two_checkpoints_with_one_template_can_be_switched_in_place(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        signatures = []
        for seed, name in enumerate(("a", "b")):
            write_checkpoint(here.layout.models / name, seed)
            await here.post("/models/register", id=name, source="t", chat_template="chatml")
            signatures.append((await activated(here, name)).signature)
        assert signatures[0] == signatures[1]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% for m in messages %}{{ m.content }}", "chat_template: the chat template is of no use: line 1"),
        ("{{ raise_exception('never') }}", "chat_template: the chat template is of no use: TemplateError: never"),
        ("{{ 'hello' }}", "does not contain the question"),
        ("{{ 9 ** 999999999 }}", "chat_template: the chat template cannot be served: the chat template makes a number"),
        ("chatmll", "chat_template: no chat template is called 'chatmll'; built in are alpaca, chatml, plain"),
        ("../../etc/passwd", "chat_template: no chat template is called"),
        ("/etc/passwd", "chat_template: no chat template is called"),
    ],
)
async def test_a_template_of_no_use_is_refused_by_its_field(template: str, said: str, tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        assert said in await here.refused(422, "/models/register", id="a", source="t", chat_template=template)
        assert said in await here.refused(422, "/pull", model="acme/tiny", chat_template=template)
        assert await here.get("/models") == {"models": []}


async def test_the_users_own_file_and_the_default_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "mine.jinja").write_text(OWN + "{# mine #}")
    async with control_plane(tmp_path, default_chat_template="plain") as here:
        for name in ("bare", "mine"):
            write_checkpoint(here.layout.models / name)
        write_with_template(here.layout.models / "own")
        for name in ("bare", "own"):
            assert (await here.post("/models/register", id=name, source="t"))["warnings"] == []
        await here.post("/models/register", id="mine", source="t", chat_template="mine")
        assert (await activated(here, "bare")).chat_template == template_text("plain", NOWHERE)
        assert (await activated(here, "own")).chat_template is None
        assert (await activated(here, "mine")).chat_template == OWN + "{# mine #}"
        assert {model["id"]: model["chat_template"] for model in (await here.get("/models"))["models"]} == {
            "bare": "default", "own": "checkpoint", "mine": "registered",
        }  # fmt: skip


async def test_an_adapter_has_its_own_or_its_bases(tmp_path: Path) -> None:
    async with control_plane(tmp_path, engine=ENGINE) as here:
        write_base(here)
        await here.post("/models/register", id="base", source="t")
        for name in ("tuned", "chatting"):
            write_adapter(here.layout.models / name)
        (warning,) = (await here.post("/models/register", id="tuned", source="t"))["warnings"]
        assert "tuned has no chat template" in warning
        chatting = await here.post("/models/register", id="chatting", source="t", chat_template="chatml")
        assert chatting["warnings"] == []
        assert (await activated(here, "tuned")).chat_template is None
        assert (await activated(here, "chatting")).chat_template == template_text("chatml", NOWHERE)


async def test_an_adapters_own_template_is_not_used_and_a_warning_says_so(tmp_path: Path) -> None:
    """PEFT's trainers write the tokenizer's template beside the adapter; mostly it is the base's."""
    async with control_plane(tmp_path, engine=ENGINE) as here:
        write_base(here)
        (here.layout.models / "base" / "tokenizer_config.json").write_text(json.dumps({"chat_template": OWN}))
        await here.post("/models/register", id="base", source="t")
        for name, brought in (("same", f"{OWN}\n"), ("other", "{{ messages[-1].content }}")):
            (write_adapter(here.layout.models / name) / "chat_template.jinja").write_text(brought)
        assert (await here.post("/models/register", id="same", source="t"))["warnings"] == []
        (warning,) = (await here.post("/models/register", id="other", source="t"))["warnings"]
        assert "other brings a chat template that is not its base's and is not used" in warning
        assert (await row(here, "other"))["warnings"] == [warning]
        assert (await row(here, "other"))["chat_template"] == "checkpoint", "its base's"
        given = {"chat_template": "{{ messages[-1].content }}", "replace": True}
        assert (await here.post("/models/register", id="other", source="t", **given))["warnings"] == []


async def test_models_of_before_it_was_noted_are_looked_at_when_control_starts(tmp_path: Path) -> None:
    async with control_plane(tmp_path, engine=ENGINE) as here:
        write_base(here)
        write_with_template(here.layout.models / "own")
        write_checkpoint(here.layout.models / "gone", 2)
        write_adapter(here.layout.models / "tuned")
        for name in ("base", "own", "gone", "tuned"):
            await here.post("/models/register", id=name, source="t")
        (warning,) = (await row(here, "base"))["warnings"]
        await run_sql(tmp_path, "UPDATE models SET has_template = NULL")
        assert (await row(here, "base"))["warnings"] == []
        shutil.rmtree(here.layout.models / "gone")
    async with control_plane(tmp_path, engine=ENGINE) as here:
        await eventually(lambda: row(here, "base"), lambda model: model["warnings"] == [warning])
        await eventually(lambda: row(here, "own"), lambda model: model["chat_template"] == "checkpoint")
        assert (await row(here, "gone"))["warnings"] == []


@pytest.mark.long
async def test_what_was_pulled_can_be_talked_to(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract's script pulls gpt2, which has no template, and then chats with it."""
    add(hub, "gpt2", tmp_path / "gpt2", architectures=["GPT2LMHeadModel"])
    add(hub, "acme/tiny", tmp_path / "tiny", seed=1)
    async with pulling(hub, tmp_path / "base", monkeypatch) as here:
        job = await ended(here, (await pull(here, "gpt2", quantize="auto", init=True))["job_id"])
        assert job["status"] == "done", job["error"]
        assert here.gateway.asked[-1].model.chat_template == template_text("plain", NOWHERE)
        (warning,) = job["result"]["warnings"]
        assert "gpt2 brings no chat template: chats are rendered with the built-in one called 'plain'" in warning
        again = await ended(here, (await pull(here, "gpt2"))["job_id"])
        assert (again["status"], again["result"]["digest"]) == ("done", job["result"]["digest"])
        named = await ended(here, (await pull(here, "acme/tiny", chat_template="chatml", init=True))["job_id"])
        assert (named["status"], named["result"]["warnings"]) == ("done", [])
        assert here.gateway.asked[-1].model.chat_template == template_text("chatml", NOWHERE)
