"""Screening of streamed output in fixed windows: pure, a function of the raw text and the policy (DESIGN 6.3)."""

from services.moderation.windows.screen import ScreenError, TextScreen
from services.moderation.windows.values import (
    Decision,
    Finding,
    Outcome,
    Release,
    Stage,
    Stretch,
    StretchAction,
    Window,
)

__all__ = [
    "Decision",
    "Finding",
    "Outcome",
    "Release",
    "ScreenError",
    "Stage",
    "Stretch",
    "StretchAction",
    "TextScreen",
    "Window",
]
