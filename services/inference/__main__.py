"""`python -m services.inference`: claims jobs from its mailbox and generates."""

from services.inference.ranks import main

if __name__ == "__main__":
    main(__doc__)
