"""What finds harm in text, and how input is screened with it."""

from services.moderation.classifiers.inputs import InputFinding, InputVerdict, screen_input
from services.moderation.classifiers.patterns import PatternClassifier
from services.moderation.classifiers.port import Classifier

__all__ = [
    "Classifier",
    "InputFinding",
    "InputVerdict",
    "PatternClassifier",
    "screen_input",
]
