"""pydantic-ai and instructor: requirements/agents.txt."""

import asyncio
import json
import sys
from typing import Any, Literal

import instructor
import openai
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings

URL = f"{sys.argv[1]}/v1"
QUESTION = "What is 17+25?"
# The demo model would put white space between the tokens of JSON for ever, which a schema allows.
NO_SPACE = dict.fromkeys(("197", "198", "201", "220"), -100)  # tab, line feed, carriage return, space


class Kind(BaseModel):
    kind: Literal["sum", "product"]


async def with_pydantic_ai() -> dict[str, Any]:
    provider = OpenAIProvider(base_url=URL, api_key="none")
    greedy = ModelSettings(temperature=0, max_tokens=64)
    agent = Agent(OpenAIChatModel("active", provider=provider), model_settings=greedy)
    whole = await agent.run(QUESTION)
    again = await agent.run("What is 20+30?", message_history=whole.all_messages())
    pieces = []
    async with agent.run_stream(QUESTION) as stream:
        pieces = [piece async for piece in stream.stream_text(delta=True)]
    structured = Agent(
        OpenAIChatModel("active", provider=provider),
        output_type=NativeOutput(Kind),
        model_settings=ModelSettings(temperature=0, max_tokens=64, logit_bias=NO_SPACE),
    )
    responses = Agent(OpenAIResponsesModel("active", provider=provider), model_settings=greedy)
    try:
        await Agent(OpenAIChatModel("nobody", provider=provider)).run(QUESTION)
        refused = 0
    except ModelHTTPError as error:
        refused = error.status_code
    return {
        "whole": whole.output,
        "turns": len(again.all_messages()),
        "pieces": "".join(pieces),
        "kind": (await structured.run(QUESTION)).output.kind,
        "responses": (await responses.run(QUESTION)).output,
        "refused": refused,
    }


def with_instructor() -> dict[str, Any]:
    client = instructor.from_openai(openai.OpenAI(base_url=URL, api_key="none"), mode=instructor.Mode.JSON_SCHEMA)
    asked = [{"role": "user", "content": QUESTION}]
    answer = client.chat.completions.create(
        model="active", messages=asked, response_model=Kind, temperature=0, max_tokens=64, logit_bias=NO_SPACE
    )
    return {"kind": answer.kind}


print(json.dumps({"pydantic_ai": asyncio.run(with_pydantic_ai()), "instructor": with_instructor()}))
