"""Types of command-line arguments."""

import argparse
import math


def seconds(text: str) -> float:
    """A span of time. Raises ArgumentTypeError for what is none, such as `nan`, 0 or less."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not (found > 0 and math.isfinite(found)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return found
