"""A policy file as YAML: what it says, and where it says it. Pure."""

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from shared.errors import SettingsError

Location = tuple[str | int, ...]
"""A path of keys and indices from the top of the file."""
Fault = tuple[Location, str]
"""Which key is to be changed, and why."""


class PolicyError(SettingsError):
    """The policy file cannot be used; the message lists every fault as `file:line: key: what to do`."""


class Source:
    """A file that is YAML and a mapping. `data` is what it says, in plain values."""

    def __init__(self, text: str, name: str) -> None:
        """`name` stands in errors. Raises PolicyError."""
        self._name = name
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.data: Any = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError: a date or a number that is none
            raise PolicyError(f"{name}: not YAML: {error}") from error
        if not isinstance(root, yaml.MappingNode) or not isinstance(self.data, dict):  # `!!set` is a mapping too
            raise PolicyError(f"{name}: must be a mapping with the keys version, streaming and categories")
        self._root = root

    def duplicates(self) -> list[Fault]:
        """YAML keeps the last of two equal keys and says nothing: half of a policy would be gone."""
        return list(_duplicates(self._root, (), set()))

    def error(self, faults: Sequence[Fault]) -> PolicyError:
        """All faults, in the order of the file."""
        lines = sorted((self._line(location), ".".join(map(str, location)), message) for location, message in faults)
        told = [f"{self._name}:{line}: {key or 'the file'}: {message}" for line, key, message in dict.fromkeys(lines)]
        return PolicyError("\n".join(["the moderation policy cannot be used", *told]))

    def _line(self, location: Location) -> int:
        """Line (from 1) of the deepest part of `location` that the file has."""
        node: yaml.Node = self._root
        line = node.start_mark.line
        for part in location:
            child = _child(node, part)
            if child is None:
                break
            line, node = child
        return line + 1


def _duplicates(node: yaml.Node, at: Location, known: set[int]) -> Iterator[Fault]:
    if id(node) in known:  # an alias; it may even hold itself
        return
    known.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, (*at, index), known)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        if name in seen:
            yield (*at, name), f"the key stands here a second time, on line {key.start_mark.line + 1}; merge them"
        seen.add(name)
        yield from _duplicates(value, (*at, name), known)


def _child(node: yaml.Node, part: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        return next(((key.start_mark.line, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item.start_mark.line, item
    return None
