"""The demo's command line: arguments, what is printed, the files that are written."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import hotloop as hl

if TYPE_CHECKING:
    from hotloop.demo.training import Outcome

__all__ = ["EPOCHS", "add_arguments", "execute"]

EPOCHS = 20
NEEDED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the demo's options to a parser."""
    parser.add_argument("--seed", type=_whole, default=0, help="for weights and order (0)")
    parser.add_argument("--epochs", type=_whole, default=EPOCHS, help=f"({EPOCHS})")
    parser.add_argument("--threads", type=_positive, help="(as `info` says)")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="where files go (here)")


def _whole(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, got {text}")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1024:
        raise argparse.ArgumentTypeError(f"must be from 1 to 1024, got {text}")
    return value


def execute(options: argparse.Namespace) -> int:
    """Trains, reports, writes the files, and reads the weights back to show that they are whole."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ImportError(
            f"demo: {' and '.join(NEEDED.values())} must be installed, {' and '.join(missing)} "
            'is not; run: pip install "hotloop[demo]"'
        )
    if not options.output_dir.is_dir():
        raise ValueError(
            f"demo: --output-dir must be a folder, got {str(options.output_dir)!r}; make it first"
        )
    from hotloop.demo.training import train_digits

    if options.threads is not None:
        hl.set_num_threads(options.threads)
    config = hl.show_config()
    print("The handwritten digits of scikit-learn: 1,437 to learn from, 360 to be tested on.")
    print(f"Level {config.level}, {config.threads} threads, seed {options.seed}.", flush=True)
    outcome = train_digits(options.seed, options.epochs, progress="images")
    _report(outcome)
    return _write(outcome, options.output_dir)


def _report(outcome: Outcome) -> None:
    count = len(outcome.test_labels)
    right = int(np.trace(outcome.confusion))
    print(f"\nTest accuracy: {100 * outcome.accuracy:.2f} % ({right} of {count})")
    print("Confusion matrix (rows: what it is; columns: what it was taken for):")
    print("      " + "".join(f"{digit:4}" for digit in range(10)))
    for digit, row in enumerate(outcome.confusion):
        print(f"{digit:4} |" + "".join(f"{n:4}" if n else "   ." for n in row))
    if len(outcome.history):
        seconds = float(np.median(outcome.history["seconds"]))
        images = outcome.history[-1]["samples"]
        rate = images * outcome.flops_per_image / seconds / 1e9
        print(f"Time per epoch: {1e3 * seconds:.0f} ms, {images / seconds:,.0f} images/s,")
        print(f"  {rate:.1f} GFLOP/s in convolutions and dense layers, all else included")
    print(f"Weights (SHA-256): {outcome.weights_hash}")


def _write(outcome: Outcome, folder: Path) -> int:
    from hotloop import checkpoint
    from hotloop.demo.figure import draw
    from hotloop.demo.training import build_network
    from hotloop.train import evaluate

    picture, weights = folder / "hotloop-demo.png", folder / "hotloop-demo.safetensors"
    draw(outcome, picture)
    notes = {"data": "scikit-learn digits", "accuracy": f"{outcome.accuracy:.6f}"}
    checkpoint.save(outcome.model.state_dict(), weights, metadata=notes)
    model = build_network()
    model.load_state_dict(checkpoint.load(weights))
    again = evaluate(model, (outcome.test_images, outcome.test_labels))["accuracy"]
    print(f"Wrote {picture} and {weights}; read back: {100 * again:.2f} %")
    if again != outcome.accuracy:
        raise RuntimeError(
            f"demo: the weights read back must give the same accuracy, got {again} instead of "
            f"{outcome.accuracy}; please report this"
        )
    return 0
