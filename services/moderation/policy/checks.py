"""What is wrong in a policy file although each of its keys is well-formed. Pure."""

from collections.abc import Iterator

from services.moderation.policy.schema import PolicySpec
from services.moderation.policy.source import Fault, Location


def contradictions(spec: PolicySpec) -> Iterator[Fault]:
    """Each fault with the path of the key that is to be changed."""
    yield from _unknown_categories(spec)
    if spec.backends:
        yield from _checkpoints(spec)


def _unknown_categories(spec: PolicySpec) -> Iterator[Fault]:
    named: list[tuple[Location, str]] = [
        (("backends", backend, *where), category)
        for backend, of_backend in spec.backends.items()
        for where, category in of_backend.meant.items()
    ]
    named += [
        (("tenants", tenant, "categories", category), category)
        for tenant, of_tenant in spec.tenants.items()
        for category in of_tenant.categories
    ]
    for location, category in named:
        if category not in spec.categories:
            yield location, f"the policy has no category {category!r}; it has {', '.join(spec.categories) or 'none'}"


def _checkpoints(spec: PolicySpec) -> Iterator[Fault]:
    """A checkpoint is the first window that ends at or behind a multiple of `checkpoint`. What is published must have
    been in one, and what one of them holds back must lie whole in the next."""
    streaming = spec.streaming
    at = ("streaming", "checkpoint")
    if streaming.checkpoint > max(streaming.hold_back, streaming.stride):
        yield (
            at,
            f"checkpoint is {streaming.checkpoint}, but must not be above hold_back, {streaming.hold_back}: text that "
            "no backend has seen would be public",
        )
    needed = streaming.hold_back + streaming.checkpoint + streaming.stride
    if streaming.lookback < needed:
        yield (
            at,
            f"lookback is {streaming.lookback}, but must be at least hold_back + checkpoint + stride = {needed}: a "
            "backend must see whole what was held back at the checkpoint before",
        )
