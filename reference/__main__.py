"""`python -m reference [--url URL]` (`make reference`): writes the pages of docs/ that describe the program.

Routes and metrics are what a running server says, so they are written only where its URL is given.
"""

import argparse
from pathlib import Path

import httpx

from reference import api, commands, compatibility, decisions, engine_patches, metrics, settings

DOCS = Path(__file__).resolve().parents[1] / "docs"
API, METRICS, COMMANDS = (DOCS / "reference" / f"{name}.md" for name in ("api", "metrics", "commands"))
OPENAPI = DOCS / "reference" / "openapi.json"
SETTINGS = DOCS / "settings.md"
DECISIONS = DOCS / "decisions" / "README.md"
ENGINE_PATCHES = DOCS / "engine-patches.md"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server, of this version and without a GPU")
    url = parser.parse_args().url
    SETTINGS.write_text(settings.filled(SETTINGS.read_text()))
    COMMANDS.write_text(commands.page())
    DECISIONS.write_text(decisions.page(DECISIONS.parent))
    ENGINE_PATCHES.write_text(engine_patches.page())
    if url is not None:
        with httpx.Client(base_url=url, timeout=120.0, trust_env=False) as http:
            http.get("/readyz").raise_for_status()  # before that it does not know all of its routes
            document = http.get("/openapi.json").raise_for_status().json()
            OPENAPI.write_text(compatibility.written(document))
            API.write_text(api.page(document))
            METRICS.write_text(metrics.page(http.get("/metrics").raise_for_status().text))


if __name__ == "__main__":
    main()
