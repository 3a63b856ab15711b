"""`vllm bench serve`: the CPU wheel has no such command that works (it looks for the other wheel's version)."""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
