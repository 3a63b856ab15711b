"""`python -m tests.e2e.media_run "URL DOMAIN" …`: vLLM fetches pictures, each with the flags of a slot whose settings
name that domain (or none); prints a line of what came of each.
"""

import asyncio
import sys

from gateway.engine.patches.environment import set_defaults
from stepserve.contract import ModelRef
from stepserve.settings import EngineSettings

set_defaults(EngineSettings().max_num_seqs)

from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: E402 - after its environment
from vllm.multimodal.media.connector import MediaConnector  # noqa: E402 - likewise
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402 - likewise

from gateway.engine.config import serve_flags  # noqa: E402 - likewise


async def main(pairs: list[str]) -> None:
    for pair in pairs:
        url, _, domain = pair.partition(" ")
        settings = EngineSettings(media_domains=[domain] if domain else [])
        flags = serve_flags(ModelRef(id="m", path="/m", digest="sha256:aa"), settings)
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(flags)
        connector = MediaConnector(allowed_media_domains=args.allowed_media_domains)
        try:
            picture = await connector.fetch_image_async(url)
            print(f"fetched {type(picture).__name__}")
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reads it
            print(f"{type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
