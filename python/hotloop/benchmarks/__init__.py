"""Benchmarks: `python -m hotloop bench [family...]`.

The cases and the rivals are one table (`hotloop.benchmarks.cases`), which `bench/` reads too. Every
rival runs in a process of its own that is stopped while another one is timed; rounds are
interleaved; medians are compared; results are asserted to agree; the machine's own limits are
contenders.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from . import processes, report, summary
from .case import CONTENDERS, Arrays, Build, Call, Case, Target
from .cases import cases, families
from .gauge import Gauge
from .rivals import BenchError, rivals
from .runner import Row, run

__all__ = [
    "Arrays",
    "BenchError",
    "Build",
    "Call",
    "Case",
    "Row",
    "Target",
    "cases",
    "families",
    "main",
    "processes",
    "rivals",
    "run",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m hotloop bench`."""
    parser.add_argument("families", nargs="*", metavar="family", help=", ".join(families()))
    parser.add_argument("--all", action="store_true", help="also the rows of detail")
    parser.add_argument(
        "--targets", action="store_true", help="only the rows with a promised figure"
    )
    parser.add_argument("--quick", action="store_true", help="small cases, two short rounds")
    parser.add_argument("--match", default="", metavar="TEXT", help="only rows that contain TEXT")
    parser.add_argument("--rivals", default=",".join(CONTENDERS[1:]), help="comma-separated")
    parser.add_argument("--rounds", type=int, help="rounds per case (5, with --quick 2)")
    parser.add_argument("--threads", type=int, help="for everybody (all cores of this process)")
    parser.add_argument("--json", metavar="FILE", help="write everything as JSON")
    parser.add_argument(
        "--update",
        metavar="FILE",
        help="JSON of an earlier run here: its rows are kept where they are not timed again",
    )
    parser.add_argument("--markdown", metavar="FILE", help="write the table as bench/README.md")
    parser.add_argument("--readme", metavar="FILE", help="put the rows of README's table into it")
    parser.add_argument("--summary", action="store_true", help="print the table in Markdown")
    parser.add_argument(
        "--processes", action="store_true", help="only: two processes at once, the import, a call"
    )
    parser.add_argument("--list", action="store_true", help="name the cases and stop")


def chosen(options: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for."""
    table = cases(options.families)
    if options.targets:
        table = [case for case in table if case.target is not None or case.mean is not None]
    if options.quick:
        table = [case for case in table if case.quick]
    if not (options.all or options.match or options.list):
        table = [case for case in table if not case.detail]
    return [case for case in table if options.match in case.key]


def _write(
    options: argparse.Namespace, rows: list[Row], about: dict[str, Any], threads: int, code: int
) -> int:
    """The table, to the terminal and the files asked for; `code`, or 1 where one had no place."""
    print("\n" + (report.markdown(rows, about) if options.summary else report.text(rows)))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report.as_json(rows, about), file, indent=1)
    if options.readme:
        try:
            with open(options.readme, encoding="utf-8") as file:
                text = summary.readme(file.read(), report.short_table(rows, about))
            with open(options.readme, "w", encoding="utf-8") as file:
                file.write(text)
        except (OSError, BenchError) as error:
            print(error, file=sys.stderr)
            code = 1
    if options.markdown:
        with open(options.markdown, "w", encoding="utf-8") as file:
            lines = processes.measure(threads).lines() if code == 0 else []
            file.write(report.markdown(rows, about, lines))
    return code


def execute(options: argparse.Namespace) -> int:
    """Runs what the options ask for; 0 when every result agreed."""
    try:
        table = chosen(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        print("\n".join(case.key for case in table))
        return 0
    if not table:
        print(
            f"bench: a case must contain {options.match!r} to be timed, none does; --list names "
            "them all",
            file=sys.stderr,
        )
        return 2
    threads = options.threads or len(os.sched_getaffinity(0))
    if options.processes:
        print("\n".join(processes.measure(threads, options.quick).lines()))
        return 0
    names = ["hotloop", *options.rivals.split(",")]
    rows: list[Row] = []
    earlier: list[Row] = []
    code = 0
    with rivals(names, threads) as contenders:
        about = report.machine(contenders, threads)
        if options.update:
            try:
                earlier = report.earlier_rows(options.update, about)
            except BenchError as error:
                print(error, file=sys.stderr)
                return 2
        print(report.headline(about))

        def progress(row: Row) -> None:
            rows.append(row)
            ratios = "  ".join(
                f"{name} {taken / row.times['hotloop']:.2f}×"
                for name, taken in row.times.items()
                if name != "hotloop"
            )
            ours = report.duration(row.times["hotloop"])
            print(f"[{len(rows)}/{len(table)}] {row.case.key}: {ours}  {ratios}", flush=True)
            for failure in row.failures.values():
                print(f"  not timed: {failure}", file=sys.stderr)

        try:
            run(
                table,
                contenders,
                rounds=options.rounds or (2 if options.quick else 5),
                seconds=0.02 if options.quick else 0.15,
                gauge=None if options.quick else Gauge(threads),
                progress=progress,
            )
        except (BenchError, KeyboardInterrupt) as error:  # what was timed is not lost
            print(str(error) or "bench: interrupted", file=sys.stderr)
            code = 1
    if not rows:
        return code
    if options.quick:
        print("bench: --quick times two short rounds: a smoke test, its ratios say little")
    return _write(options, report.merged(earlier, rows), about, threads, code)


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m hotloop bench`."""
    parser = argparse.ArgumentParser(prog="hotloop bench", description=__doc__)
    add_arguments(parser)
    return execute(parser.parse_args(arguments))
