"""What a training run leaves behind."""

from __future__ import annotations

from typing import Any

__all__ = ["History"]


class History:
    """One record per epoch; `history["loss"]` gives a column, `history[-1]` the last record."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []

    def append(self, record: dict[str, Any]) -> None:
        """Adds the record of an epoch."""
        self.epochs.append(dict(record))

    def __len__(self) -> int:
        return len(self.epochs)

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, int):
            return self.epochs[key]
        if not any(key in record for record in self.epochs):
            known = sorted({name for record in self.epochs for name in record})
            raise KeyError(
                f"History: no column {key!r}; there are {', '.join(known) or 'none yet'}"
            )
        return [record.get(key) for record in self.epochs]

    def __contains__(self, key: str) -> bool:
        return any(key in record for record in self.epochs)

    def __repr__(self) -> str:
        return f"History({len(self.epochs)} epochs, last: {self.epochs[-1] if self.epochs else {}})"
