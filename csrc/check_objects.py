"""Checks the level-compiled objects: no weak symbols, static constructors or spilled tiles.

Run by the build (CMakeLists.txt) over every object of csrc/kernels/cpu. Prints what it found and
exits with 1, so that the build fails where the linker would have kept silent.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

# A store of a whole vector register to the stack.
_SPILL = re.compile(
    r"\bv?mov(?:[au]p[sd]|dq[au](?:8|16|32|64)?)\s+%[yz]mm\d+,\s*-?(0x)?[0-9a-f]*\(%r[sb]p", re.I
)
_FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
# Functions that must keep their accumulators in registers.
_TILE = re.compile(r"tile_loop")


def weak_symbols(nm: str, path: str) -> list[str]:
    """Symbols that another file's copy could replace (types W, V, u, and weak undefined ones)."""
    listing = subprocess.run([nm, "-C", path], check=True, capture_output=True, text=True).stdout
    found = []
    for line in listing.splitlines():
        match = re.match(r"^[0-9a-f ]*\s([A-Za-z]) (.+)$", line)
        if match and match.group(1) in "WVuwv":
            found.append(match.group(2))
    return found


def static_constructors(objdump: str, path: str) -> bool:
    """Whether the object asks for code to run before main."""
    sections = subprocess.run(
        [objdump, "-h", path], check=True, capture_output=True, text=True
    ).stdout
    return ".init_array" in sections or ".ctors" in sections


def spilled_tiles(objdump: str, path: str) -> dict[str, int]:
    """Stores of vector registers to the stack, per function whose name marks it as a tile."""
    code = subprocess.run(
        [objdump, "-d", "--no-show-raw-insn", path], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, int] = {}
    function = ""
    for line in code.splitlines():
        head = _FUNCTION.match(line)
        if head:
            function = head.group(1)
        elif _TILE.search(function) and _SPILL.search(line):
            found[function] = found.get(function, 0) + 1
    return found


def spills(objdump: str, path: str) -> list[str]:
    """What spilled_tiles found, in words."""
    return [f"{count} spills in {name}" for name, count in spilled_tiles(objdump, path).items()]


def problems(nm: str, objdump: str, path: str) -> list[str]:
    """Everything that makes one object file wrong, whatever the compiler."""
    found = [f"weak symbol {name}" for name in weak_symbols(nm, path)]
    if static_constructors(objdump, path):
        found.append("static constructor (.init_array)")
    return found


def main() -> int:
    """Checks the objects given; 0 when all are clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nm", default="nm")
    parser.add_argument("--objdump", default="objdump")
    parser.add_argument("--stamp")
    # Spills cost speed, no more: an error for the compiler that the tiles were written with.
    parser.add_argument("--spills", choices=["error", "report"], default="error")
    parser.add_argument("objects", nargs="*")
    options = parser.parse_args()
    bad = 0
    for path in options.objects:
        for problem in problems(options.nm, options.objdump, path):
            print(f"{path}: {problem}", file=sys.stderr)
            bad += 1
        for spill in spills(options.objdump, path):
            print(f"{path}: {spill}", file=sys.stderr)
            bad += options.spills == "error"
    if bad:
        return 1
    if options.stamp:
        Path(options.stamp).write_text(f"{len(options.objects)} objects\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
