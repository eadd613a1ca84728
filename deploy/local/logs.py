"""Errors from the services' log files, as they appear."""

import re
from pathlib import Path

_CHUNK_BYTES = 64 * 1024
_ERROR = re.compile(r"^error: |\b(?:ERROR|CRITICAL)\b|\"level\": ?\"(?:error|critical)\"|^\w+(?:\.\w+)*Error\b")


class ErrorFollower:
    """Reads on from the file's end at its creation; at most 64 KiB a call, the rest the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def new_errors(self) -> list[str]:
        """Lines since the last call that tell of an error."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as log:
            log.seek(self._offset)
            chunk = log.read(_CHUNK_BYTES)
        self._offset += len(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self._rest = self._rest[-_CHUNK_BYTES:]
        return [text for line in lines if is_error(text := line.decode(errors="replace").rstrip())]


def is_error(line: str) -> bool:
    """Whether a log line, text or JSON, or the last line of a traceback, tells of an error."""
    return _ERROR.search(line) is not None
