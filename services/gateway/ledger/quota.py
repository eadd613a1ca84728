"""What a limited tenant is told: headers on every reply, and why a request was refused. Pure."""

from services.gateway.errors import RATE_LIMIT, ApiError, retry_after
from services.gateway.ledger.window import Shortage, Standing

_NAMES = {"requests": "requests per min (RPM)", "tokens": "tokens per min (TPM)"}


def quota_headers(standing: Standing | None) -> dict[str, str]:
    """`x-ratelimit-*` for each limit that there is: the limit, what is left of it, until when all of it is free."""
    if standing is None:
        return {}
    return {
        **_of("requests", standing.limits.requests, standing.requests, standing.requests_reset_ms),
        **_of("tokens", standing.limits.tokens, standing.tokens, standing.tokens_reset_ms),
    }


def limited_error(shortage: Shortage, standing: Standing | None, tenant: str) -> ApiError:
    """429 with when to come again; without, and not to be retried, where the request alone exceeds the limit."""
    asked, limit, name = f"{shortage.asked:,}", f"{shortage.limit:,}", _NAMES[shortage.kind]
    if shortage.wait_ms is None:
        message = (
            f"Request too large for organization {tenant} on {name}: Limit {limit}, Requested {asked} (the prompt and "
            "the longest answer). Shorten the input or set 'max_output_tokens' ('max_completion_tokens') lower."
        )
        when = {"x-should-retry": "false"}
    else:
        message = (
            f"Rate limit reached for organization {tenant} on {name}: Limit {limit}, Used {shortage.used:,}, "
            f"Requested {asked}. Please try again in {duration(shortage.wait_ms)}."
        )
        when = retry_after(shortage.wait_ms)
    headers = {**quota_headers(standing), **when}
    return ApiError(429, message, code=RATE_LIMIT, error_type=shortage.kind, headers=headers)


def key_reused() -> ApiError:
    """422: the idempotency key stands for another request."""
    message = "This Idempotency-Key was used with another request. Use a new key for a new request."
    return ApiError(422, message, code="idempotency_key_reused", param="Idempotency-Key")


def duration(ms: int) -> str:
    """As OpenAI writes durations, which is as Go does: `0s`, `12ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(max(0, ms), 60_000)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest_ms / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def _of(kind: str, limit: int | None, used: int, reset_ms: int) -> dict[str, str]:
    if limit is None:
        return {}
    return {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(max(0, limit - used)),
        f"x-ratelimit-reset-{kind}": duration(reset_ms),
    }
