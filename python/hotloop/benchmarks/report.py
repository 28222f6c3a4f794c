"""The table as text, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from typing import Any

from .accuracy import worst_ulp
from .case import CONTENDERS
from .rivals import Rival
from .runner import Row


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine(contenders: dict[str, Rival], threads: int) -> dict[str, Any]:
    """What the figures depend on."""
    import hotloop as hl

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "level": hl.show_config().level,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: rival.version for name, rival in contenders.items() if rival.version},
    }


def duration(seconds: float) -> str:
    """`12.3 us`: three digits and a unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= size:
            return (
                f"{seconds / size:.3g} {unit}"
                if seconds < 100 * size
                else (f"{seconds / size:.0f} {unit}")
            )
    return f"{seconds / 1e-9:.2g} ns"


def rate(row: Row) -> str:
    """GFLOP/s where the case counts operations, else GB/s."""
    ours = row.times.get("hotloop")
    if not ours:
        return ""
    if row.case.flops:
        return f"{row.case.flops / ours / 1e9:.3g} GFLOP/s"
    return f"{row.case.bytes / ours / 1e9:.3g} GB/s" if row.case.bytes else ""


def _ratio(row: Row, name: str) -> str:
    ratio = row.ratio(name)
    if ratio is None:
        return ""
    variant = row.variants.get(name, "")
    return f"{ratio:.2f}×" + (f" ({variant})" if variant else "")


def _share(row: Row) -> str:
    ratio = row.ratio("ceiling")
    return f"{100 * ratio:.0f} %" if ratio else ""


def _target(row: Row) -> str:
    target = row.case.target
    if target is None:
        return ""
    met = {True: "met", False: "MISSED", None: "not timed"}[row.met]
    if target.rival == "ceiling":
        return f"{100 * target.ratio:.0f} % of ceiling: {met}"
    either = "" if target.ceiling is None else f" or {100 * target.ceiling:.0f} % of ceiling"
    return f"{target.ratio}× {target.rival}{either}: {met}"


def _columns(rows: list[Row]) -> list[str]:
    others = [name for name in CONTENDERS if name not in ("hotloop", "ceiling")]
    return [name for name in others if any(name in row.times for row in rows)]


def _accuracy(row: Row) -> str:
    if row.case.error is not None:
        return f"{row.case.error():.1e} of max"
    return f"{worst_ulp(row.case.ulp):.2f} ULP" if row.case.ulp else ""


def cells(rows: list[Row]) -> list[list[str]]:
    """Header and lines: our time and rate, the share of the ceiling, the rivals' time over ours."""
    names = _columns(rows)
    header = ["case", "hotloop", "rate", "of ceiling", *names, "worst error", "promised"]
    lines = [
        [
            row.case.key,
            duration(row.times["hotloop"]) if "hotloop" in row.times else "-",
            rate(row),
            _share(row),
            *(_ratio(row, name) for name in names),
            _accuracy(row),
            _target(row),
        ]
        for row in rows
    ]
    used = [i for i in range(len(header)) if i < 2 or any(line[i] for line in lines)]
    return [[line[i] for i in used] for line in [header, *lines]]


def text(rows: list[Row]) -> str:
    """The table for a terminal."""
    table = cells(rows)
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in table
    ]
    lines.insert(1, "-" * sum(widths))
    return "\n".join(lines)


def _markdown_table(rows: list[Row]) -> str:
    table = cells(rows)
    rule = ["---", *["---:"] * (len(table[0]) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [table[0], rule, *table[1:]])


def headline(about: dict[str, Any]) -> str:
    """One line on the machine and the versions."""
    versions = ", ".join(
        f"{name} {version}"
        for name, version in about["versions"].items()
        if name not in ("ceiling", "plain", "numpy-skylakex")
    )
    return (
        f"{about['cpu']}, {about['threads']} threads on {about['cores']} cores, "
        f"level {about['level']}; "
        f"Python {about['python']}, {versions}; {about['date']}."
    )


def markdown(rows: list[Row], about: dict[str, Any], processes: Sequence[str] = ()) -> str:
    """bench/README.md: the figures that were promised first, then every family."""
    parts = [
        "# The latest table",
        "Generated by `python -m hotloop bench --markdown bench/README.md`; do not edit by hand.",
        headline(about),
        "Every contender runs in a process of its own, stopped while another is timed; rounds are "
        "interleaved and the medians compared; results are asserted to agree. A figure under a "
        "rival's name is its time over ours: above 1 hotloop is faster, below 1 it is slower. Of "
        "several variants (memory formats, fused or not) a rival's fastest is shown. `of ceiling` "
        "puts our time beside a loop that only computes (matrix products, convolutions) or only "
        "moves the same bytes, timed in the same rounds. `plain` is our own plainer way: layers "
        "one by one, the direct algorithm. `worst error` in ULP is the largest error over every "
        "1,021st float32 there is, against float64; else it is a share of the largest element.",
    ]
    promised = [row for row in rows if row.case.target is not None]
    if promised:
        parts += ["## Promised figures", _markdown_table(promised)]
    if processes:
        parts += ["## Processes", "\n".join(f"- {line}" for line in processes)]
    for family in dict.fromkeys(row.case.family for row in rows):
        parts += [f"## {family}", _markdown_table([r for r in rows if r.case.family == family])]
    failures = [f"- {row.case.key}: {text}" for row in rows for text in row.failures.values()]
    if failures:
        parts += ["## Not timed", "\n".join(failures)]
    return "\n\n".join(parts) + "\n"


def as_json(rows: list[Row], about: dict[str, Any]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "machine": about,
        "rows": [
            {
                "family": row.case.family,
                "case": row.case.name,
                "seconds": row.times,
                "variants": {name: variant for name, variant in row.variants.items() if variant},
                "rounds": row.rounds,
                "flops": row.case.flops,
                "bytes": row.case.bytes,
                "target": None
                if row.case.target is None
                else {
                    "rival": row.case.target.rival,
                    "ratio": row.case.target.ratio,
                    "met": row.met,
                },
                "failures": row.failures,
            }
            for row in rows
        ],
    }
