"""What can be known of a pattern before it ever runs: its widths, its worst case, what it cannot match without.

The engine is the standard library's `re`. A linear-time engine (RE2) was weighed: its binding encodes the whole
string to UTF-8 and maps every offset back on each call, which costs more than these short scans, and it is one
more native wheel per platform. Instead a pattern must be harmless by construction, which is checked here:

* no look-around, no back-references, no conditionals: a match then depends on its own text and one neighbour on
  either side (`\\b`), so a window needs one code point of context and nothing else;
* a bounded number of ways to match at one place (`MAX_WAYS`), so that no text can make it backtrack for long;
  windows are bounded too (`lookback`), so a scan costs at most `lookback * MAX_WAYS` steps, and usually none.

`re._parser` is the parser of `re` itself (`sre_parse` until 3.10): the only way to see a pattern as it will run.
"""

import re
from dataclasses import dataclass
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

MAX_WAYS = 10_000
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)
_REFUSED = {
    op.ASSERT: "look-around, whose result text far outside a window could change; match the neighbours themselves",
    op.ASSERT_NOT: "negative look-around, whose result text far outside a window could change; use \\b or a class",
    op.GROUPREF: "a back-reference, which makes matching exponential; write the alternatives out",
    op.GROUPREF_EXISTS: "a conditional group; write two patterns",
}


class PatternError(ValueError):
    """A pattern that may not run; the message says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class CompiledPattern:
    """A pattern ready to scan. Widths are code points; `max_width` None means "no limit".

    `required`: sets of lower-case ASCII strings; every match within ASCII text contains, whatever the case, one
    string of each set. Empty if nothing is known. `raw`: for the text as it was written only, not for its normal form.
    """

    regex: re.Pattern[str]
    min_width: int
    max_width: int | None
    required: tuple[frozenset[str], ...]
    raw: bool = False

    def may_match(self, lowered: str) -> bool:
        """False only if no part of the ASCII text, of which `lowered` is `str.lower()`, can match."""
        return all(any(literal in lowered for literal in literals) for literals in self.required)


def compile_pattern(source: str, flags: re.RegexFlag, lookback: int, *, raw: bool = False) -> CompiledPattern:
    """Compile and vet `source` for windows of `lookback` code points. Raises PatternError."""
    try:
        tree = _parser.parse(source, flags)
        regex = re.compile(source, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"not a regular expression: {error}") from error
    _refuse_constructs(tree, bool(regex.flags & re.MULTILINE))
    min_width, max_width = tree.getwidth()
    if min_width == 0:
        raise PatternError("matches the empty string, that is: everywhere; require at least one character")
    if min_width > lookback:
        raise PatternError(f"needs {min_width} code points, more than a window holds (lookback {lookback})")
    _ways(tree, lookback)
    # The parser counts "without limit" as a large number that differs between versions of Python.
    bounded = max_width < op.MAXREPEAT and not _is_unbounded(tree)
    # A normal form is in lower case: a pattern to which case matters has nothing to look for there.
    raw = raw or not regex.flags & re.IGNORECASE
    return CompiledPattern(regex, min_width, int(max_width) if bounded else None, _required(tree), raw)


def _children(code: Any, argument: Any) -> list[Any]:
    """The sub-patterns of one node of the parser's tree."""
    if code is op.BRANCH:
        return list(argument[1])
    if code is op.SUBPATTERN:
        return [argument[3]]
    if code in _REPEATS:
        return [argument[2]]
    return [argument] if code is op.ATOMIC_GROUP else []


def _refuse_constructs(tree: Any, multiline: bool) -> None:
    for code, argument in tree:
        if code in _REFUSED:
            raise PatternError(f"uses {_REFUSED[code]}")
        if code is op.AT and argument is op.AT_END and not multiline:
            raise PatternError("uses `$`, which also matches before a last newline; use \\Z, or the flag multiline")
        for child in _children(code, argument):
            _refuse_constructs(child, multiline)


def _is_unbounded(tree: Any) -> bool:
    return any(
        (code in _REPEATS and argument[1] is op.MAXREPEAT) or any(map(_is_unbounded, _children(code, argument)))
        for code, argument in tree
    )


def _ways(tree: Any, lookback: int) -> int:
    """An upper bound on the paths that the engine may try from one start. Raises PatternError above MAX_WAYS."""
    ways = 1
    for code, argument in tree:
        ways *= _node_ways(code, argument, lookback)
        if ways > MAX_WAYS:
            raise PatternError(
                f"could try more than {MAX_WAYS:,} ways to match at one place and stall every stream; use fewer or "
                "narrower repetitions, or possessive ones (`?+`, `{0,40}+`) where giving back cannot help"
            )
    return ways


def _node_ways(code: Any, argument: Any, lookback: int) -> int:
    inner = [_ways(child, lookback) for child in _children(code, argument)]
    if code is op.BRANCH:
        return max(inner) if _starts_differ(argument[1]) else sum(inner)
    if code in (op.MAX_REPEAT, op.MIN_REPEAT):
        # The exponent is capped: anything beyond is far above MAX_WAYS already.
        lowest, highest = min(argument[0], lookback), min(argument[1], lookback)
        return int((highest - lowest + 1) * inner[0] ** min(highest, 64))
    if code is op.SUBPATTERN:
        return inner[0]
    return 1  # a single character, an assertion, or a group that never gives back


def _starts_differ(branches: list[Any]) -> bool:
    """Whether at most one branch can begin at any character, whatever its case."""
    firsts = {_uncased(chr(branch[0][1])) for branch in branches if len(branch) and branch[0][0] is op.LITERAL}
    return len(firsts) == len(branches)


def _uncased(character: str) -> str:
    """The same for all characters that `re` takes for one when it ignores case, which are more than `lower` knows: the
    long s is an s, the Kelvin sign a k."""
    return character.upper().casefold()[:1]


def _required(tree: Any) -> tuple[frozenset[str], ...]:
    """The sets of literals of which each match holds one of each; those that most texts lack come first."""
    found: list[frozenset[str]] = []
    run = ""
    for code, argument in tree:
        # Beyond ASCII, letters of other scripts fold onto ASCII ones (the Kelvin sign is a k): no literal.
        if code is op.LITERAL and argument < 128:
            run += chr(argument).lower()
            continue
        found += [frozenset((run,))] if run else []
        run = ""
        found += _required_within(code, argument)
    found += [frozenset((run,))] if run else []
    return tuple(sorted(set(found), key=lambda literals: (-_rarity(literals), sorted(literals))))


def _rarity(literals: frozenset[str]) -> int:
    """How unlikely a text is to hold one of the literals: the length of the shortest."""
    return min(map(len, literals))


def _required_within(code: Any, argument: Any) -> tuple[frozenset[str], ...]:
    """What one node requires: all that its child does or, of several branches, the rarest set of each, united."""
    if code in _REPEATS and argument[0] == 0:
        return ()
    children = [_required(child) for child in _children(code, argument)]
    if not children or not all(children):
        return ()
    return children[0] if len(children) == 1 else (frozenset().union(*(sets[0] for sets in children)),)
