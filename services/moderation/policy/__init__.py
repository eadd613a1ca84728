"""The moderation policy: what is looked for, in which windows, by whom, and what is done about it."""

from services.moderation.policy.backend_specs import (
    BackendSpec,
    EncoderSpec,
    GuardSpec,
    PersonalDataSpec,
    SecretsSpec,
    TextClassificationSpec,
    UpstreamSpec,
)
from services.moderation.policy.loading import DEFAULT_POLICY, load_policy, parse_policy
from services.moderation.policy.model import WINDOW_RULES, Category, Policy
from services.moderation.policy.regexes import CompiledPattern
from services.moderation.policy.rollout import Rollout
from services.moderation.policy.schema import InputAction, OutputAction, Streaming, Thresholds
from services.moderation.policy.shelf import PolicyShelf
from services.moderation.policy.source import PolicyError

__all__ = [
    "DEFAULT_POLICY",
    "WINDOW_RULES",
    "BackendSpec",
    "Category",
    "CompiledPattern",
    "EncoderSpec",
    "GuardSpec",
    "InputAction",
    "OutputAction",
    "PersonalDataSpec",
    "Policy",
    "PolicyError",
    "PolicyShelf",
    "Rollout",
    "SecretsSpec",
    "Streaming",
    "TextClassificationSpec",
    "Thresholds",
    "UpstreamSpec",
    "load_policy",
    "parse_policy",
]
