"""What we take from others: bills of materials from the locks, and whether anything in them is known to be unsafe."""
