"""Replacing a file so that a kill or a power cut leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path

__all__ = ["replace_file"]

STALE_SECONDS = 3600.0


def replace_file(path: Path, data: bytes) -> None:
    """Writes `data` beside `path`, makes it durable, and renames it over `path`.

    Raises:
        OSError: as the system gave it; the old file is intact and the temporary one is gone.
    """
    path = Path(os.path.realpath(path))  # write through a link instead of replacing it
    _remove_stale(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:  # of the file that was asked for, not of the one beside it
        raise type(error)(error.errno, error.strerror, str(path)) from None
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    """Temporaries that a kill left behind; recent ones may still be written."""
    prefix = f".{path.name}."
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(prefix) and name.endswith(".tmp"):
                stray = path.with_name(name)
                with contextlib.suppress(OSError):
                    if time.time() - stray.stat().st_mtime > STALE_SECONDS:
                        stray.unlink()
