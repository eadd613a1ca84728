"""`python -m services.inference`: claims jobs from its mailbox and generates."""

import sys

from services.inference.ranks import main

if __name__ == "__main__":
    sys.exit(main(__doc__))
