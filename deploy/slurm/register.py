"""Puts a server into a tier of a hosts.json, or takes it out: what serve.sh calls when a server begins and ends.

    register.py add HOSTS_FILE TIER URL [KEY_VARIABLE]
    register.py remove HOSTS_FILE TIER URL

Jobs on several nodes may do so at once: a lock file beside it is held meanwhile, and the file is replaced whole.
"""

import argparse
import fcntl
import json
import os
from pathlib import Path
from typing import Any


def main() -> int:
    parser = argparse.ArgumentParser(description="Put a server into a tier of a hosts.json, or take it out.")
    parser.add_argument("action", choices=("add", "remove"))
    parser.add_argument("file", type=Path)
    parser.add_argument("tier")
    parser.add_argument("url")
    parser.add_argument("key_variable", nargs="?", help="the variable that holds this server's key, where it is asked")
    given = parser.parse_args()
    given.file.parent.mkdir(parents=True, exist_ok=True)
    with given.file.with_name(f"{given.file.name}.lock").open("a") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        hosts = json.loads(given.file.read_text()) if given.file.exists() else {}
        server = {"base_url": given.url} | ({"api_key_env": given.key_variable} if given.key_variable else {})
        _replace(given.file, changed(hosts, given.tier, server, wanted=given.action == "add"))
    return 0


def changed(hosts: dict[str, Any], tier: str, server: dict[str, str], *, wanted: bool) -> dict[str, Any]:
    """`hosts` with `server` in the tier, or without it; a tier without servers is left out, for it would be refused."""
    tiers = dict(hosts.get("tiers", {}))
    settings = dict(tiers.pop(tier, {}))
    others = [one for one in settings.pop("upstreams", []) if _url(one) != server["base_url"]]
    upstreams = [*others, server] if wanted else others
    if upstreams:
        tiers[tier] = {"upstreams": upstreams, **settings}
    return {**hosts, "tiers": tiers}


def _url(upstream: str | dict[str, Any]) -> str:
    return upstream if isinstance(upstream, str) else str(upstream["base_url"])


def _replace(file: Path, hosts: dict[str, Any]) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    with aside.open("w") as out:
        json.dump(hosts, out, indent=2)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    aside.replace(file)


if __name__ == "__main__":
    raise SystemExit(main())
