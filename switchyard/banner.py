"""What a person sees on the terminal after `switchyard up`."""

import asyncio
import ipaddress
import time

import httpx

from switchyard.settings import Settings

_POLL_S = 0.5
_REMIND_S = 30.0


def _is_local(host: str) -> bool:
    """True for the loopback addresses and for those that mean every interface."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


class Announcer:
    """Waits until the server answers, then prints where it is and what to try first."""

    def __init__(self, settings: Settings) -> None:
        host = "localhost" if _is_local(settings.host) else settings.host
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"
        self._logs = settings.layout.logs

    async def run(self) -> None:
        print(f"Switchyard is starting on {self._url} (logs in {self._logs}) …", flush=True)
        started = reminded = time.monotonic()
        async with httpx.AsyncClient(base_url=self._url, timeout=5.0, trust_env=False) as client:
            while (model := await self._active_model(client)) is None:
                if time.monotonic() - reminded > _REMIND_S:
                    reminded = time.monotonic()
                    print(f"… still loading after {reminded - started:.0f} s", flush=True)
                await asyncio.sleep(_POLL_S)
        print(self.text(model, time.monotonic() - started), flush=True)

    @staticmethod
    async def _active_model(client: httpx.AsyncClient) -> str | None:
        try:
            answer = await client.get("/health")
        except httpx.HTTPError:
            return None
        return answer.json()["active_model"] if answer.status_code == 200 else None

    def text(self, model: str, seconds: float) -> str:
        url = self._url
        return f"""
  Switchyard is ready   {url}   (after {seconds:.0f} s)
  Active model          {model}
  Logs                  {self._logs}

  Try:
    curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' \\
         -d '{{"model": "active", "messages": [{{"role": "user", "content": "What is 17+25?"}}]}}'
    curl -s {url}/models
    curl -s {url}/eval/jobs -H 'Content-Type: application/json' \\
         -d '{{"model_id": "{model}", "name": "first", "dataset_ref": "math_eval.jsonl"}}'

  Ctrl-C stops it.
"""
