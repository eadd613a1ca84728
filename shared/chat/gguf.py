"""The metadata of a GGUF file, read in a tenth of a second and without numpy.

The `gguf` package takes two seconds for the same: it indexes every string of the vocabulary as an array of bytes.
Gateways and history replicas load a tokenizer at every start, so the few lines below pay for themselves.
The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (little-endian, versions 2 and 3).
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from shared.chat.errors import UnsupportedTokenizerError

Scalar: TypeAlias = str | int | float | bool
Value: TypeAlias = Scalar | list[Scalar]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING = 8
_ARRAY = 9
# struct codes of the fixed-size value types: u8 i8 u16 i16 u32 i32 f32 bool, u64 i64 f64
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """The key-value head of a file.

    `digest` is a SHA-256 over the head and the file's size: it names the tokenizer and the shape of the model
    without reading a gigabyte of weights.
    """

    values: dict[str, Value]
    digest: str

    def text(self, key: str) -> str | None:
        """The string under `key`; None if there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        """The integer under `key`; None if there is none."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def texts(self, key: str) -> list[str]:
        """The array of strings under `key`; empty if there is none."""
        value = self.values.get(key)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def integers(self, key: str) -> list[int]:
        """The array of integers under `key`; empty if there is none."""
        value = self.values.get(key)
        return [item for item in value if isinstance(item, int)] if isinstance(value, list) else []


def read_gguf_metadata(path: Path) -> GgufMetadata:
    """Read the head of the file at `path`.

    Raises UnsupportedTokenizerError if it is no GGUF file, of another version, or cut off.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size < 24 or file.read(4) != _MAGIC:
            raise UnsupportedTokenizerError(f"{path} is not a GGUF file ({size:,} bytes): download it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            cursor = _Cursor(data, path)
            values = cursor.head()
            digest = hashlib.sha256(data[: cursor.position] + struct.pack("<Q", size)).hexdigest()
    return GgufMetadata(values, digest)


class _Cursor:
    """A reading position in the mapped file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self.position = len(_MAGIC)

    def head(self) -> dict[str, Value]:
        try:
            (version,) = self._take("I")
            if version not in _VERSIONS:
                raise UnsupportedTokenizerError(f"{self._path} is GGUF version {version}; versions 2 and 3 can be read")
            _tensors, count = self._take("QQ")
            return dict(self._pair() for _ in range(count))
        except (struct.error, UnicodeDecodeError) as error:
            raise UnsupportedTokenizerError(
                f"{self._path} is damaged near byte {self.position:,} ({error}): download it again"
            ) from error

    def _pair(self) -> tuple[str, Value]:
        key = self._string()
        (kind,) = self._take("I")
        if kind != _ARRAY:
            return key, self._scalar(kind)
        kind, count = self._take("IQ")
        if kind in _SCALARS:
            return key, list(self._take(f"{count}{_SCALARS[kind]}"))
        return key, [self._scalar(kind) for _ in range(count)]

    def _scalar(self, kind: int) -> Scalar:
        if kind == _STRING:
            return self._string()
        if kind not in _SCALARS:
            raise UnsupportedTokenizerError(f"{self._path} holds a value of the unknown GGUF type {kind}")
        value: Scalar = self._take(_SCALARS[kind])[0]
        return value

    def _string(self) -> str:
        (length,) = self._take("Q")
        end = self.position + length
        if end > len(self._data):
            raise struct.error(f"a string of {length:,} bytes passes the end of the file")
        raw = self._data[self.position : end]
        self.position = end
        return raw.decode("utf-8")

    def _take(self, code: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{code}", self._data, self.position)
        self.position += struct.calcsize(f"<{code}")
        return values
