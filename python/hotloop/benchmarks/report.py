"""The table as text, as Markdown and as JSON."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

from . import summary
from .accuracy import worst_ulp
from .case import CONTENDERS
from .cases import cases
from .rivals import BenchError, Rival
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


def earlier_rows(path: str, about: dict[str, Any]) -> list[Row]:
    """The rows of an earlier run's JSON whose cases there still are.

    Raises BenchError where it comes from another machine or other versions: figures of two machines
    do not stand in one table.
    """
    try:
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        then, rows = stored["machine"], stored["rows"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchError(
            f"bench: {path} must be the JSON that `--json` writes, got {error!r}"
        ) from None
    for name, value in about.items():
        if name != "date" and then.get(name) != value:
            raise BenchError(
                f"bench: {path} must come from this machine and these versions to be updated: "
                f"{name} is {value!r}, there {then.get(name)!r}; run the whole table instead"
            )
    known = {case.key: case for case in cases(sorted({row["family"] for row in rows}))}
    return [
        Row(
            known[key],
            times=row["seconds"],
            variants={name: "" for name in row["seconds"]} | row["variants"],
            rounds=row["rounds"],
            failures=row["failures"],
            disturbed=row.get("disturbed", 0),
            date=row.get("date", then["date"]),
        )
        for row in rows
        if (key := f"{row['family']}: {row['case']}") in known
    ]


def merged(earlier: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The new rows in the places of the earlier ones; what is new comes last, family by family."""
    found = {row.case.key: row for row in earlier} | {row.case.key: row for row in rows}
    families = dict.fromkeys(row.case.family for row in found.values())
    return [row for family in families for row in found.values() if row.case.family == family]


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


def _ours(row: Row) -> str:
    if "hotloop" not in row.times:
        return "-"
    return duration(row.times["hotloop"]) + (" †" if row.disturbed else "")


def cells(rows: list[Row]) -> list[list[str]]:
    """Header and lines: our time and rate, the share of the ceiling, the rivals' time over ours."""
    names = _columns(rows)
    header = ["case", "hotloop", "rate", "of ceiling", *names, "worst error", "promised"]
    lines = [
        [
            row.case.key,
            _ours(row),
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


def short_table(rows: list[Row], about: dict[str, Any]) -> str:
    """README's table: few rows, a rival's better variant (NumPy with its best OpenBLAS kernels)."""
    chosen = {row.case.key: row for row in rows if row.case.key in summary.README_ROWS}
    columns = {"NumPy": ("numpy", "numpy-skylakex"), "PyTorch": ("torch",), "JAX": ("jax",)}
    columns["ONNX Runtime"] = ("onnxruntime",)
    lines = [
        f"| case (f32, {about['threads']} threads) | hotloop | {' | '.join(columns)} |",
        "|---|" + "---:|" * (1 + len(columns)),
    ]
    for key in summary.README_ROWS:
        if key in chosen:
            row = chosen[key]
            best = [
                min((n for n in names if n in row.times), key=row.times.__getitem__, default="")
                for names in columns.values()
            ]
            lines.append(f"| {key} | {_ours(row)} | {' | '.join(_ratio(row, n) for n in best)} |")
    return "\n".join([*lines, "", headline(about)])


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
        "moves the same bytes, timed in the same rounds. Out of the caches, activations, "
        "reductions, dropout and elementary functions have that loop over the case's own arrays, "
        "in the case's own process, its samples between the case's: one array read, one copied to "
        "another by stores around the caches, or, for gradients, two added into a third. "
        "Elsewhere it has arrays of its own, of random numbers. Every contender finds a case's "
        "large arrays placed alike: on huge pages, in turn at one of eight places modulo 4 KB; "
        "where a heap puts them counts for up to a factor of two. `plain` is our own plainer way: "
        "layers one by one, the direct algorithm; for awkward sizes our product of the "
        "neighbouring size, for transposed operands that of plain ones. `worst error` in ULP is "
        "the largest error over every 1,021st float32 there is, against float64; else it is a "
        "share of the largest element. Before and after each timing a loop of multiply-adds tells "
        "whether the machine runs at its full rate; what falls into a slow spell is timed again, "
        "and † marks a row with timings that no better one could replace.",
    ]
    dates = sorted({row.date for row in rows})
    if len(dates) > 1:
        parts.append(f"The rows were timed from {dates[0]} to {dates[-1]}.")
    promised = [row for row in rows if row.case.target is not None]
    if promised:
        parts += ["## Promised figures", _markdown_table(promised)]
    if across := [*summary.means(rows), *summary.spreads(rows)]:
        parts += ["## Across rows: geometric means, spreads", "\n".join(f"- {t}" for t in across)]
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
                "disturbed": row.disturbed,
                "date": row.date,
            }
            for row in rows
        ],
    }
