"""`python -m services.inference`: claims jobs from its mailbox and generates."""

import sys

from services.inference.app import serve
from services.inference.settings import InferenceSettings
from shared.runtime import main_of

if __name__ == "__main__":
    sys.exit(main_of("inference", __doc__, InferenceSettings, serve))
