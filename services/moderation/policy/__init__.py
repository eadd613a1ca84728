"""The moderation policy: what is looked for, in which windows, and what is done about it."""

from services.moderation.policy.loading import DEFAULT_POLICY, PolicyError, load_policy, parse_policy
from services.moderation.policy.model import WINDOW_RULES, Category, Policy
from services.moderation.policy.regexes import CompiledPattern
from services.moderation.policy.schema import InputAction, OutputAction, Streaming

__all__ = [
    "DEFAULT_POLICY",
    "WINDOW_RULES",
    "Category",
    "CompiledPattern",
    "InputAction",
    "OutputAction",
    "Policy",
    "PolicyError",
    "Streaming",
    "load_policy",
    "parse_policy",
]
