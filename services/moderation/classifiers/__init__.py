"""What finds harm in text without asking anybody."""

from services.moderation.classifiers.patterns import PatternClassifier
from services.moderation.classifiers.port import Classifier

__all__ = ["Classifier", "PatternClassifier"]
