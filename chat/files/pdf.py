"""The text of a PDF, read by a process of its own: a hostile one can cost that process, within bounds, and no other.

Run as a script it reads the file named first within the limits that follow, writes its text, and ends with a status
that says how it went. Called as `text_of` it starts that process.
"""

import subprocess
import sys
from typing import NamedTuple

OK, BROKEN, BOMB = 0, 3, 4


class Limits(NamedTuple):
    """Of one reading. `ratio`: of what a stream may unfold to, to the size of the whole file; `least_bytes`: which it
    may unfold to in any case."""

    chars: int
    memory_bytes: int
    cpu_s: int
    ratio: int
    least_bytes: int


class Broken(Exception):
    """It is no PDF, or it was cut short."""


class Bomb(Exception):
    """It unfolds to more than its size allows, or costs more time or memory than it may."""


def text_of(path: str, limits: Limits, within_s: float) -> str:
    """At most `limits.chars` characters. Raises Broken, Bomb."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__, path, *map(str, limits)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=within_s,
        )
    except subprocess.TimeoutExpired as error:
        raise Bomb from error
    if done.returncode == BROKEN:
        raise Broken
    if done.returncode != OK:
        raise Bomb
    return done.stdout.decode(errors="replace")[: limits.chars].replace("\0", "")


def main(path: str, limits: Limits) -> int:
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere it is not kept to, or refused
        resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes, limits.memory_bytes))
    import logging

    from pypdf import PdfReader, overwrite_configuration
    from pypdf.errors import LimitReachedError

    logging.disable()
    most = max(limits.least_bytes, limits.ratio * os.path.getsize(path))
    names = ("zlib", "lzw", "run_length", "array_based_stream")
    overwrite_configuration(**{f"{name}_maximum_output_length": most for name in names})
    left = limits.chars
    try:
        for page in PdfReader(path).pages:
            text = page.extract_text()[:left]
            left -= len(text)
            sys.stdout.buffer.write(text.encode(errors="replace") + b"\n")
            if left <= 0:
                break
    except (LimitReachedError, MemoryError):
        return BOMB
    except Exception:  # a hostile file can raise whatever it likes
        return BROKEN
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Limits(*map(int, sys.argv[2:]))))
