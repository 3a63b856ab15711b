"""What a person sees on the terminal after `stepserve up`."""

import asyncio
import ipaddress
import json
import time

import httpx

from stepserve.address import is_loopback, loopback_for
from stepserve.settings import Settings

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

    def __init__(self, settings: Settings, ui_url: str | None = None) -> None:
        self._ui = ui_url
        host = "localhost" if _is_local(settings.host) else settings.host
        self._settings = settings
        self._scheme = "https" if settings.tls.on else "http"
        self._url = f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
        self._logs = settings.layout.logs

    async def run(self) -> None:
        print(f"Stepserve is starting on {self._url} (logs in {self._logs}) …", flush=True)
        started = reminded = time.monotonic()
        async with httpx.AsyncClient(base_url=self._asked(), timeout=5.0, trust_env=False, verify=False) as client:  # noqa: S501 (it asks itself)
            while (model := await self._active_model(client, self._credentials())) is None:
                if time.monotonic() - reminded > _REMIND_S:
                    reminded = time.monotonic()
                    print(f"… still loading after {reminded - started:.0f} s", flush=True)
                await asyncio.sleep(_POLL_S)
        print(self.text(model, time.monotonic() - started), flush=True)

    @staticmethod
    async def _active_model(client: httpx.AsyncClient, headers: dict[str, str]) -> str | None:
        """None until the server is ready; empty where it tells nobody without a key which model is active."""
        try:
            answer = await client.get("/health", headers=headers)
        except httpx.HTTPError:
            return None
        return str(answer.json().get("active_model", "")) if answer.status_code == 200 else None

    def _credentials(self) -> dict[str, str]:
        key = self._settings.access.admin_key
        return {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}

    def _asked(self) -> str:
        """Where this server can be asked from here, whether or not other machines may already."""
        if not self._is_closed():
            return self._url
        host = loopback_for(self._settings.host)
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self._settings.port}"

    def _is_closed(self) -> bool:
        """Whether no key was made yet, so that loopback alone is listened to whatever the settings say."""
        return self._settings.access.mode == "auto" and not self._has_keys() and not is_loopback(self._settings.host)

    def _demands_keys(self) -> bool:
        mode = self._settings.access.mode
        return mode == "keys" or (mode == "auto" and self._has_keys())

    def _has_keys(self) -> bool:
        if self._settings.access.admin_key is not None:
            return True
        try:
            known = json.loads(self._settings.layout.key_cache.read_text())
            return bool(known["keys"] or known.get("demanded"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def text(self, model: str, seconds: float) -> str:
        """`model` is empty where it is not known."""
        url = self._url
        active = f"\n  Active model          {model}" if model else ""
        if self._settings.fleet.control is not None:
            return f"""
  Stepserve is ready   {url}   (after {seconds:.0f} s)
  Member of the fleet   {self._settings.fleet.control}{active}
  Logs                  {self._logs}

  `stepserve fleet status --host {self._settings.fleet.control}` shows all members.
  Ctrl-C stops this one.
"""
        closed = ""
        if self._is_closed():
            closed = (
                "\n  No keys exist, so only this machine can connect."
                " Make one: stepserve keys create me --scope admin\n"
            )
        count = self._settings.replicas.count
        replicas = f"\n  Replicas              {count}   (stepserve fleet status shows them)" if count > 1 else ""
        ui = f"\n  Web UI                {self._ui}   (in a few seconds)" if self._ui else ""
        key = '-H "Authorization: Bearer $INFERENCE_API_KEY" ' if self._demands_keys() else ""
        header = "Content-Type: application/json"
        return f"""
  Stepserve is ready   {url}   (after {seconds:.0f} s){active}
  Logs                  {self._logs}{replicas}{ui}

  Try:
    curl -s {url}/v1/chat/completions {key}-H '{header}' \\
         -d '{{"model": "active", "messages": [{{"role": "user", "content": "What is 17+25?"}}]}}'
    curl -s {key}{url}/models
    curl -s {url}/eval/jobs {key}-H '{header}' \\
         -d '{{"model_id": "{model or "active"}", "name": "first", "dataset_ref": "math_eval.jsonl"}}'

{closed}
  Ctrl-C stops it.
"""
