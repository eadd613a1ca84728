"""`python -m services.moderation`: owns partitions of the journal, screens, publishes, dispatches."""

import sys

from services.moderation.app import serve
from services.moderation.settings import ModerationSettings
from shared.runtime import main_of

if __name__ == "__main__":
    sys.exit(main_of("moderation", __doc__, ModerationSettings, serve))
