// The openai and ai SDKs in Node. Prints what they saw as JSON.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import OpenAI from "openai";

const baseURL = `${process.argv[2]}/v1`;
const messages = [{ role: "user", content: "What is 17+25?" }];

const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const asked = { model: "active", messages, temperature: 0 };
const whole = await client.chat.completions.create(asked);
let pieces = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  pieces += chunk.choices[0]?.delta?.content ?? "";
}
const first = await client.responses.create({ model: "active", input: "What is 17+25?", temperature: 0 });
const second = await client.responses.create({ model: "active", input: "x", previous_response_id: first.id });
const refused = await client.chat.completions.create({ ...asked, model: "nobody" }).catch((error) => error);

const model = createOpenAICompatible({ name: "stepserve", baseURL, apiKey: "none" })("active");
const { text, usage } = await generateText({ model, messages, temperature: 0 });
let streamed = "";
for await (const piece of streamText({ model, messages, temperature: 0 }).textStream) streamed += piece;
console.log(JSON.stringify({
  openai: {
    whole: whole.choices[0].message.content, pieces, responses: first.output_text,
    goneOn: second.previous_response_id === first.id, refused: [refused.status, refused.code],
  },
  ai: { text, tokens: usage.outputTokens, streamed },
}));
