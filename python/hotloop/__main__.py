"""The command line: `python -m hotloop info | demo | bench`.

Results go to stdout, messages and progress to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

import hotloop
from hotloop import cuda
from hotloop.config import show_config

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    from hotloop import benchmarks, demo

    parser = argparse.ArgumentParser(
        prog="hotloop",
        description="Deep-learning kernels on NumPy arrays, and what trains with them.",
    )
    parser.add_argument("--version", action="version", version=f"hotloop {hotloop.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    info = commands.add_parser("info", help="what runs here and why: CPU level, threads, CUDA")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(execute=_info)
    train = commands.add_parser("demo", help="train a small network on real handwritten digits")
    demo.add_arguments(train)
    train.set_defaults(execute=demo.execute)
    bench = commands.add_parser("bench", help="time the kernels beside their rivals")
    benchmarks.add_arguments(bench)
    bench.set_defaults(execute=benchmarks.execute)
    return parser


def _info(options: argparse.Namespace) -> int:
    config = show_config()
    reason = cuda.unavailable_reason()
    if options.json:
        found = {"cuda": not reason, "cuda_reason": reason, "cuda_build": cuda.built_with()}
        print(json.dumps({**asdict(config), **found}, indent=1))
    else:
        print(config)
        print(f"{'CUDA:':16}{'yes' if not reason else f'no: {reason}'}")
        print(f"{'CUDA build:':16}{cuda.built_with()}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    try:
        options = _parser().parse_args(arguments)
        return int(options.execute(options))
    except KeyboardInterrupt:
        print("hotloop: interrupted", file=sys.stderr)
        return 1
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        print(f"hotloop: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
