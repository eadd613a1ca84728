"""Text as a reader takes it, for patterns and models: `normalise("k\\u200b1LL").text == "kill"`. Pure.

Whoever wants to say something unnoticed writes it so that people read it and programs do not: with look-alike letters
of other scripts, invisible characters, digits for letters, s p a c e s, loooong vowels, stacked accents, line breaks.
`normalise` undoes that, and knows for every code point of its result where in the raw text it comes from.

What it leaves alone: other scripts (Russian, Greek, Arabic, Hindi, Japanese words stay as they are, in lower case),
HTML entities and percent-encoding (that is for whoever renders), and what only a dictionary could tell: letters moved
about, left out or starred ("f**k"), words cut by one dot ("ki.ll"), a sentence spaced out without wider gaps.
"""

from services.moderation.normaliser.characters import fold
from services.moderation.normaliser.edits import Edit, Normalised
from services.moderation.normaliser.normalise import REACH, is_plain, normalise
from services.moderation.normaliser.shapes import PLAIN_PART

__all__ = ["PLAIN_PART", "REACH", "Edit", "Normalised", "fold", "is_plain", "normalise"]
