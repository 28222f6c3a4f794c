"""Progress on the terminal: tqdm where it is installed, one line per epoch where it is not."""

from __future__ import annotations

import sys
from typing import Any, Protocol

__all__ = ["Progress", "describe", "make_progress"]


class Progress(Protocol):
    """What `fit` tells: the same dicts that callbacks get."""

    def __call__(self, info: dict[str, Any], /) -> None:
        """Shows one event."""
        ...

    def close(self) -> None:
        """Leaves the terminal as it should be."""
        ...


def describe(info: dict[str, Any]) -> str:
    """The numbers of an event in one line."""
    parts = []
    for name, value in info.items():
        if name in ("event", "epoch", "epochs", "batch", "batches", "samples", "seconds"):
            continue
        if name == "samples_per_second":
            parts.append(f"{value:,.0f} samples/s")
        elif isinstance(value, int | float):
            parts.append(f"{name} {value:.4f}")
    return ", ".join(parts)


class _Bar:
    def __init__(self, tqdm: Any, unit: str) -> None:
        self._tqdm = tqdm
        self._unit = unit
        self._bar: Any = None

    def __call__(self, info: dict[str, Any]) -> None:
        if self._bar is None:
            self._bar = self._tqdm(
                total=info["batches"],
                desc=f"epoch {info['epoch']}/{info['epochs']}",
                unit="batch",
                file=sys.stderr,
                mininterval=0.1 if sys.stderr.isatty() else 60,  # in a log only the whole epoch
                dynamic_ncols=True,
                bar_format="{desc} |{bar:12}| {n_fmt}/{total_fmt}{postfix}",
            )
        if info["event"] == "batch":
            if self._bar.n + 1 >= (self._bar.total or 0) or info["batch"] % 16 == 0:
                self._bar.set_postfix_str(self._text(info), refresh=False)
            self._bar.update(1)
        else:
            self._bar.set_postfix_str(self._text(info), refresh=False)
            self.close()

    def _text(self, info: dict[str, Any]) -> str:
        return describe(info).replace("samples/s", f"{self._unit}/s")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Lines:
    def __init__(self, unit: str) -> None:
        self._unit = unit

    def __call__(self, info: dict[str, Any]) -> None:
        if info["event"] == "epoch":
            text = describe(info).replace("samples/s", f"{self._unit}/s")
            sys.stderr.write(f"epoch {info['epoch']}/{info['epochs']}: {text}\n")

    def close(self) -> None:
        pass


def make_progress(unit: str = "samples") -> Progress:
    """The best display there is; `unit` names what the speed counts."""
    try:
        from tqdm import tqdm
    except ImportError:
        return _Lines(unit)
    quiet = type("tqdm", (tqdm,), {"monitor_interval": 0})  # without the thread that watches bars
    return _Bar(quiet, unit)
