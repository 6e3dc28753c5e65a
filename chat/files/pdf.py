"""The text of a PDF, read by a process of its own: a hostile one can cost that process, within bounds, and no other.

Run as a script it reads the file named first, writes at most so many characters of text, and ends with a status that
says how it went. Called as `text_of` it starts that process.
"""

import subprocess
import sys

OK, BROKEN, BOMB = 0, 3, 4
MEMORY_BYTES = 512 * 1024 * 1024
CPU_S = 10
WALL_S = 20
RATIO = 100  # of what a stream may unfold to, to the size of the whole file
LEAST_BYTES = 4 * 1024 * 1024  # which it may unfold to in any case


class Broken(Exception):
    """It is no PDF, or it was cut short."""


class Bomb(Exception):
    """It unfolds to more than its size allows, or costs more time or memory than it may."""


def text_of(path: str, chars: int) -> str:
    """At most `chars` characters. Raises Broken, Bomb."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__, path, str(chars)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WALL_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Bomb from error
    if done.returncode == BROKEN:
        raise Broken
    if done.returncode != OK:
        raise Bomb
    return done.stdout.decode(errors="replace")[:chars].replace("\0", "")


def main(path: str, chars: int) -> int:
    import os
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere it is not kept to, or refused
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    import logging

    from pypdf import PdfReader, overwrite_configuration
    from pypdf.errors import LimitReachedError

    logging.disable()
    most = max(LEAST_BYTES, RATIO * os.path.getsize(path))
    names = ("zlib", "lzw", "run_length", "array_based_stream")
    overwrite_configuration(**{f"{name}_maximum_output_length": most for name in names})
    left = chars
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
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
