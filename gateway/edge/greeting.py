"""GET /: what Ollama's clients look for, and for a browser a page that says what runs here and where to go on."""

from dataclasses import dataclass
from html import escape

from gateway.dialects.call import Call
from gateway.dialects.served import Served
from gateway.edge.pages import links, send_page, wants_html
from gateway.request.context import RequestContext
from stepserve import __version__, web_ui
from stepserve.settings import Settings

_FOR_OLLAMA = b"Ollama is running"
_LINKS = {
    "/docs": "every route, and what it takes",
    "/v1/models": "the names that a request may use",
    "/health": "how the server is",
    "/models": "registered checkpoints",
    "/jobs": "evaluations, generated data, downloads",
}


@dataclass(frozen=True, slots=True)
class Greeting:
    settings: Settings
    served: Served

    async def __call__(self, call: Call, _: None) -> None:
        if wants_html(call):
            await send_page(call, "Stepserve", self._body(call))
            return
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(_FOR_OLLAMA)).encode()),
            (b"vary", b"accept"),
        ]
        await call.send({"type": "http.response.start", "status": 200, "headers": headers})
        body = b"" if call.scope["method"] == "HEAD" else _FOR_OLLAMA
        await call.send({"type": "http.response.body", "body": body})

    def _body(self, call: Call) -> str:
        if RequestContext.of(call.scope).minimal:  # anybody may be here
            return f"<p>An inference server. It asks for a key.</p>{links({'/docs': _LINKS['/docs']})}"
        state = self.served.snapshot()
        if state.active is None:
            serving = "No model is active yet."
        else:
            serving = f"<code>{escape(state.active.id)}</code> is active; {len(self.served.slots())} loaded."
        base = f"<code>http://localhost:{self.settings.port}/v1</code>"
        shown = _LINKS if web_ui.child_of(self.settings) is None else {web_ui.PATH: "the web UI", **_LINKS}
        return f"<p>Version {escape(__version__)}. {serving} OpenAI clients: base URL {base}.</p>{links(shown)}"
