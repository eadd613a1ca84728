"""What changed between two contracts, and whom that breaks. Pure.

There are two ways to break a reader, since releases run side by side during an update and the log keeps what the last
one wrote: readers of the last release meet what this one writes, and this one meets what the last wrote.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from deploy.events.consumers import Consumer
from deploy.events.contract import CommonTerms, Contract, TopicTerms
from deploy.events.shapes import Side, Trouble, troubles
from shared.topics import Visibility

UNDECLARED = "consumers that are not declared"
OPERATORS = "operators"
EVERYBODY = ("everybody",)


class Kind(StrEnum):
    """Whom a change concerns."""

    READERS_OF_THE_LAST = "breaks readers of the last release, who meet what this one writes"
    READERS_OF_THIS = "breaks this release, which meets what the last one wrote"
    COMPATIBLE = "breaks nobody"


@dataclass(frozen=True)
class Change:
    """`what` says where and what, and names the change when it is to be accepted; `broken`: those whom it breaks."""

    kind: Kind
    what: str
    broken: tuple[str, ...] = ()


def changes(last: Contract, this: Contract, consumers: Sequence[Consumer]) -> list[Change]:
    """All of them, the breaking ones first; `consumers` are those that declared what they read of the last release."""
    found = list(_Comparison(last, this, consumers).all())
    order = list(Kind)
    return sorted(found, key=lambda change: (order.index(change.kind), change.what))


@dataclass(frozen=True)
class _Comparison:
    last: Contract
    this: Contract
    consumers: Sequence[Consumer]

    def all(self) -> Iterator[Change]:
        if self.this.schema_version < self.last.schema_version:
            what = f"the schema version fell from {self.last.schema_version} to {self.this.schema_version}"
            yield Change(Kind.READERS_OF_THE_LAST, what, EVERYBODY)
        yield from self._common(self.last.common, self.this.common)
        for name, terms in self.last.topics.items():
            if name not in self.this.topics:
                yield self._breaks_readers(name, "the topic is not there")
            else:
                yield from self._terms(name, terms, self.this.topics[name])
                yield from self._records(name, terms, self.this.topics[name])
        for name in self.this.topics:
            if name not in self.last.topics:
                yield Change(Kind.COMPATIBLE, f"{name}: the topic is new")

    # -- all topics ----------------------------------------------------------------------------------------------

    def _common(self, last: CommonTerms, this: CommonTerms) -> Iterator[Change]:
        outsiders = (*(each.name for each in self.consumers), UNDECLARED)
        for begins, was, is_now, broken in (
            ("ce_type begins", last.type_prefix, this.type_prefix, EVERYBODY),
            ("groups of consumers begin", last.consumer_groups, this.consumer_groups, outsiders),
        ):
            if was != is_now:
                yield Change(Kind.READERS_OF_THE_LAST, f"{begins} with {is_now!r}, not {was!r}", broken)
        before, after = Side(last.headers, {}), Side(this.headers, {})
        for trouble in sorted(set(troubles(reader=before, writer=after))):
            yield Change(Kind.READERS_OF_THE_LAST, f"the header {trouble.path} {trouble.what}", EVERYBODY)
        missed = {trouble.path: trouble.what for trouble in troubles(reader=after, writer=before, lost=False)}
        for name, what in sorted(missed.items()):
            yield Change(Kind.READERS_OF_THIS, f"the header {name} {what}", EVERYBODY)
        for name in sorted(this.headers["properties"].keys() - last.headers["properties"].keys() - missed.keys()):
            yield Change(Kind.COMPATIBLE, f"the header {name} is new")

    # -- topics --------------------------------------------------------------------------------------------------

    def _terms(self, name: str, last: TopicTerms, this: TopicTerms) -> Iterator[Change]:
        for term in ("key", "partitioning", "partitions", "cleanup", "log_append_time"):
            was, is_now = getattr(last, term), getattr(this, term)
            if was != is_now:
                yield self._breaks_readers(name, f"{term} was {was!r} and is {is_now!r}")
        if this.retention_s < last.retention_s:
            yield self._breaks_readers(name, f"retention fell from {last.retention_s:,} s to {this.retention_s:,} s")
        elif this.retention_s > last.retention_s:
            yield Change(
                Kind.COMPATIBLE, f"{name}: retention rose from {last.retention_s:,} s to {this.retention_s:,} s"
            )
        if (last.visibility, this.visibility) == (Visibility.PUBLIC, Visibility.INTERNAL):
            theirs = tuple(each.name for each in self.consumers if each.concerned(name))
            yield Change(Kind.READERS_OF_THE_LAST, f"{name}: it was public and is internal", (*theirs, UNDECLARED))
        elif last.visibility != this.visibility:
            yield Change(Kind.COMPATIBLE, f"{name}: it was {last.visibility} and is {this.visibility}")

    # -- records -------------------------------------------------------------------------------------------------

    def _records(self, name: str, last: TopicTerms, this: TopicTerms) -> Iterator[Change]:
        for tag in last.records:
            if tag in this.records:
                yield from self._fields(name, tag)
            else:
                yield self._breaks_readers(name, f"records of type {tag} are not there", tag)
                yield self._breaks_us(name, f"records of type {tag} cannot be read")
        for tag in this.records:
            if tag not in last.records:
                yield Change(Kind.COMPATIBLE, f"{name}: records of type {tag} are new")

    def _fields(self, name: str, tag: str) -> Iterator[Change]:
        last = Side(self.last.schema(name, tag), self.last.definitions)
        this = Side(self.this.schema(name, tag), self.this.definitions)
        for trouble in sorted(set(troubles(reader=last, writer=this))):
            yield self._breaks_readers(name, _said(tag, trouble), tag, trouble.path)
        breaking = sorted(set(troubles(reader=this, writer=last, lost=False)))
        for trouble in breaking:
            yield self._breaks_us(name, _said(tag, trouble))
        broken = {trouble.path for trouble in breaking}
        for trouble in sorted(set(troubles(reader=this, writer=last))):
            if trouble.path not in broken:
                yield Change(Kind.COMPATIBLE, f"{name}: {tag}.{trouble.path} is new")

    # -- whom ----------------------------------------------------------------------------------------------------

    def _breaks_readers(self, topic: str, what: str, tag: str | None = None, path: str = "") -> Change:
        """Services cannot say which fields they look at: they decode the whole record."""
        terms = self.last.topics[topic]
        declared = tuple(each.name for each in self.consumers if each.concerned(topic, tag, path))
        others = (UNDECLARED,) if terms.visibility == Visibility.PUBLIC else ()
        broken = (*terms.consumers, *declared, *others)
        return Change(Kind.READERS_OF_THE_LAST, f"{topic}: {what}", broken or (OPERATORS,))

    def _breaks_us(self, topic: str, what: str) -> Change:
        terms = self.this.topics[topic]
        return Change(Kind.READERS_OF_THIS, f"{topic}: {what}", tuple(terms.consumers) or (OPERATORS,))


def _said(tag: str, trouble: Trouble) -> str:
    return f"{tag}{'.' if trouble.path else ''}{trouble.path} {trouble.what}"
