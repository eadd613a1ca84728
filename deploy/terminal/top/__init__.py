"""`make top`: `roster`, `flow`, `scrape` and `view` are pure, `watch` reads the log, `rendering` draws."""
