"""The ledger: what tenants ask for and use, decided by the order of one topic, alike at every gateway."""

from services.gateway.ledger.fold import Conflict, Granted, Holder, Limited, Repeated
from services.gateway.ledger.ledger import Ask, Ledger, Receipt, Repeatable
from services.gateway.ledger.limits import Limits, RateLimits, load_rate_limits
from services.gateway.ledger.quota import key_reused, limited_error, quota_headers

__all__ = [
    "Ask",
    "Conflict",
    "Granted",
    "Holder",
    "Ledger",
    "Limited",
    "Limits",
    "RateLimits",
    "Receipt",
    "Repeatable",
    "Repeated",
    "key_reused",
    "limited_error",
    "load_rate_limits",
    "quota_headers",
]
