"""`python -m services.history`: records what clients were told, and reminds the model of it."""

import sys

from services.history.app import serve
from services.history.settings import HistorySettings
from shared.runtime import main_of

if __name__ == "__main__":
    sys.exit(main_of("history", __doc__, HistorySettings, serve))
