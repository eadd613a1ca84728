"""A policy for tests: harmless words stand for the harmful ones."""

CUT_PHRASE = "purple zeppelin"
REFUSE_PHRASE = "green submarine"
MASK_PHRASE = "tangerine"

TEST_POLICY = f"""
version: test-1
streaming: {{stride: 4, lookback: 64, hold_back: 32}}
categories:
  violence:
    patterns: ["purple zeppelin"]
    input: off
    output: cut
  illicit:
    patterns: ["{REFUSE_PHRASE}"]
    input: refuse
    output: off
  personal:
    patterns: ["{MASK_PHRASE}"]
    input: off
    output: mask
    mask: "[fruit]"
"""
