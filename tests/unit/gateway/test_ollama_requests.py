import pytest

from gateway.dialects.ollama.requests import OllamaChatRequest, OllamaGenerateRequest, Options
from gateway.errors import InvalidRequest


def test_options_become_vllms() -> None:
    options = Options.model_validate(
        {
            "num_predict": 9,
            "temperature": 0.1,
            "top_k": 5,
            "repeat_penalty": 1.1,
            "seed": 3,
            "stop": ["a"],
            "num_gpu": 1,
        }
    )
    assert options.sampling(100) == {
        "max_tokens": 9, "temperature": 0.1, "top_k": 5, "repetition_penalty": 1.1, "seed": 3, "stop": ["a"],
    }  # fmt: skip


@pytest.mark.parametrize(("num_predict", "given"), [(-1, {}), (-2, {}), (0, {}), (5000, {"max_tokens": 512})])
def test_how_much_is_predicted(num_predict: int, given: dict[str, int]) -> None:
    assert Options(num_predict=num_predict).sampling(512) == given


def test_a_larger_context_than_the_engines_is_refused() -> None:
    assert Options(num_ctx=512).sampling(512) == {}
    with pytest.raises(InvalidRequest, match=r"options\.num_ctx: 4096 .* 512"):
        Options(num_ctx=4096).sampling(512)


def test_tool_calls_and_their_answers_find_each_other() -> None:
    request = OllamaChatRequest.model_validate(
        {
            "model": "m:latest",
            "messages": [
                {"role": "assistant", "tool_calls": [
                    {"function": {"name": "add", "arguments": {"a": 1}}},
                    {"function": {"name": "sub", "arguments": {}}},
                ]},
                {"role": "tool", "tool_name": "sub", "content": "0"},
                {"role": "tool", "content": "1"},
            ],
        }
    )  # fmt: skip
    body = request.body(None)
    assert body["model"] == "m"
    called, first, second = body["messages"]
    assert [call["function"]["arguments"] for call in called["tool_calls"]] == ['{"a": 1}', "{}"]
    assert first["tool_call_id"] == called["tool_calls"][1]["id"]
    assert second["tool_call_id"] == called["tool_calls"][0]["id"]


def test_formats() -> None:
    schema = {"type": "object"}
    body = OllamaGenerateRequest(model="m", prompt="x", format=schema).body(None)
    assert body["response_format"]["json_schema"]["schema"] == schema
    assert OllamaGenerateRequest(model="m", format="json").body(None)["response_format"] == {"type": "json_object"}
    assert "response_format" not in OllamaGenerateRequest(model="m", format="").body(None)


@pytest.mark.parametrize("field", ["template", "suffix"])
def test_what_cannot_be_done_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        OllamaGenerateRequest.model_validate({"model": "m", "prompt": "x", field: "y"}).body(None)


def test_a_picture_is_a_data_url() -> None:
    body = OllamaGenerateRequest(model="m", prompt="x", images=["iVBORw0KGgoAAAANSUhEUg=="]).body(None)
    text, picture = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "x"}
    assert picture["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    with pytest.raises(InvalidRequest, match="images"):
        OllamaGenerateRequest(model="m", prompt="x", images=["not base64!"]).body(None)


def test_a_last_message_of_the_assistants_is_continued() -> None:
    asked = {"role": "user", "content": "17+25?"}
    begun = OllamaChatRequest.model_validate({"model": "a", "messages": [asked, {"role": "assistant", "content": "4"}]})
    body = begun.body(None)
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    for last in (asked, called):
        request = OllamaChatRequest.model_validate({"model": "a", "messages": [asked, last]})
        assert "continue_final_message" not in request.body(None)
        assert len(request.body(None)["messages"]) == 2
    nothing = OllamaChatRequest.model_validate(
        {"model": "a", "messages": [asked, {"role": "assistant", "content": ""}]}
    )
    assert nothing.body(None)["messages"] == [asked], "an answer of which nothing is there is begun, not closed"
