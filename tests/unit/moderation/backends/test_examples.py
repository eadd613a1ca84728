"""The example policies: each is valid, and each guard model is asked and read as it was trained."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from services.moderation.backends.answers import AnswerReader, Token
from services.moderation.backends.building import build_backend
from services.moderation.policy import DEFAULT_POLICY, GuardSpec, load_policy
from shared.chat import ChatTemplate

EXAMPLES = sorted((DEFAULT_POLICY.parent / "examples").glob("*.yaml"))
USER = {"role": "user", "content": "How do I pick a lock?"}
ASSISTANT = {"role": "assistant", "content": "With a rake."}

LLAMA_OUTPUT = """<|begin_of_text|><|start_header_id|>user<|end_header_id|>

Task: Check if there is unsafe content in 'Agent' messages in conversations according our safety policy with the \
below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
S1: Violent Crimes.
S2: Non-Violent Crimes.
S3: Sex Crimes.
S4: Child Exploitation.
S5: Defamation.
S6: Specialized Advice.
S7: Privacy.
S8: Intellectual Property.
S9: Indiscriminate Weapons.
S10: Hate.
S11: Self-Harm.
S12: Sexual Content.
S13: Elections.
S14: Code Interpreter Abuse.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

User: How do I pick a lock?

Agent: With a rake.

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST Agent message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories.<|eot_id|>\
<|start_header_id|>assistant<|end_header_id|>

"""
QWEN_INPUT = """<|im_start|>user
# Task:
1) Evaluate whether THE LAST USER's query belongs to safe or unsafe content based on our safety policy.
2) Identify the category of unsafe content found.

<BEGIN SAFETY POLICY>
**Safety: Safe**: The USER's query does not contain any prohibited content or content that could lead to prohibited \
content.
**Safety: Unsafe**: The USER's query contains prohibited content.
**Safety: Controversial**: The USER's query does not explicitly contain prohibited content, but its intent, context, \
or potential responses could be misinterpreted, misused, or exploited to generate unsafe content under certain \
conditions.
<END SAFETY POLICY>

<BEGIN UNSAFE CONTENT CATEGORIES>
Violent.
Non-violent Illegal Acts.
Sexual Content or Sexual Acts.
PII.
Suicide & Self-Harm.
Unethical Acts.
Politically Sensitive Topics.
Copyright Violation.
Jailbreak.
<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

USER: How do I pick a lock?

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST **USER's query** in the above conversation:
 - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.
 - The second line should start with 'Categories:' followed by a list of any unsafe content categories, separated by \
commas. If the content is safe, use 'Categories: None'.<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
QWEN_OUTPUT_END = """<END UNSAFE CONTENT CATEGORIES>

<BEGIN REFUSAL POLICY>
**Refusal: Yes**: The ASSISTANT refused to answer or did not comply with the USER's request.
**Refusal: No**: The ASSISTANT directly answered or complied with the USER's request.
<END REFUSAL POLICY>

<BEGIN CONVERSATION>

USER: How do I pick a lock?

ASSISTANT: With a rake.

<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST **ASSISTANT's response** in the above conversation:
 - The first line must be one of: 'Safety: Safe', 'Safety: Unsafe', 'Safety: Controversial'.
 - The second line should start with 'Categories:' followed by a list of any unsafe content categories, separated by \
commas. If the content is safe, use 'Categories: None'.
 - The third line must be one of: 'Refusal: Yes', 'Refusal: No'.<|im_end|>
<|im_start|>assistant
<think>

</think>

"""
GRANITE_OUTPUT = """<|start_of_role|>user<|end_of_role|>You are a safety agent trying to help determine whether the \
assistant message is harmful according to the safety risk definition below.

<start_of_turn>
User Message: How do I pick a lock?
Assistant Message: With a rake.
<end_of_turn>

Our safety risk definition is defined below:
<start_of_risk_definition>
* The 'Assistant' message is harmful by common-sense.
<end_of_risk_definition>

Is the assistant message harmful based on the risk definition? Your answer must be either 'Yes' or 'No'.<|end_of_text|>
<|start_of_role|>assistant<|end_of_role|>"""


def guard(name: str) -> GuardSpec:
    spec = load_policy(DEFAULT_POLICY.parent / "examples" / f"{name}.yaml").backends["guard"]
    assert isinstance(spec, GuardSpec)
    return spec


def prompt(name: str, stage: str, *messages: dict[str, str]) -> str:
    """As the backend makes it, but for a tokenizer."""
    template = ChatTemplate("", {"bos_token": "<|begin_of_text|>"}).rewritten(guard(name).template, stage=stage)
    return template.render(messages, add_generation_prompt=True)


def scores(name: str, answer: str) -> dict[str, float]:
    """Of an answer without probabilities, each of whose letters is a token."""

    def decode(ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    reader = AnswerReader(guard(name).safe, guard(name).labels, decode)
    return dict(reader.read([Token(ord(letter)) for letter in answer]).scores)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_is_a_policy_whose_backends_can_be_built(path: Path) -> None:
    policy = load_policy(path)
    for name, spec in policy.backends.items():
        assert build_backend(name, spec).categories <= policy.categories.keys()
    assert not policy.warnings


def test_llama_guard_is_asked_as_it_was_trained() -> None:
    assert prompt("llama-guard", "output", USER, ASSISTANT) == LLAMA_OUTPUT
    asked = prompt("llama-guard", "input", USER)
    assert "in 'User' messages" in asked
    assert "Agent" not in asked


def test_qwen3guard_is_asked_as_it_was_trained() -> None:
    assert prompt("qwen3guard", "input", USER) == QWEN_INPUT
    asked = prompt("qwen3guard", "output", USER, ASSISTANT)
    assert asked.endswith(QWEN_OUTPUT_END)
    assert "found.\n3) Determine if THE LAST ASSISTANT's response is a refusal to the USER's query.\n\n<BEGIN" in asked
    assert "could become risky or offensive depending on context or audience.\n<END SAFETY POLICY>" in asked


def test_granite_guardian_is_asked_as_it_was_trained() -> None:
    assert prompt("granite-guardian", "output", USER, ASSISTANT) == GRANITE_OUTPUT
    asked = prompt("granite-guardian", "input", USER)
    assert "below.\n\n<start_of_turn>\nUser Message: How do I pick a lock?\n<end_of_turn>" in asked


@pytest.mark.parametrize(
    ("name", "answer", "categories"),
    [
        ("llama-guard", "\n\nsafe", set()),
        ("llama-guard", "\n\nunsafe\nS10", {"hate"}),
        ("llama-guard", "\n\nunsafe\nS1,S12", {"violence", "sexual"}),
        ("qwen3guard", "Safety: Safe\nCategories: None", set()),
        ("qwen3guard", "Safety: Unsafe\nCategories: Violent", {"violence"}),
        ("qwen3guard", "Safety: Unsafe\nCategories: Non-violent Illegal Acts", {"illicit"}),
        ("qwen3guard", "Safety: Unsafe\nCategories: PII, Violent\nRefusal: No", {"violence", "guard-other"}),
        ("qwen3guard", "Safety: Controversial\nCategories: Suicide & Self-Harm", {"self-harm"}),
        ("qwen3guard", "Safety: Controversial\nCategories: None", {"guard-other"}),
        ("granite-guardian", "No", set()),
        ("granite-guardian", " Yes", {"harm"}),
    ],
)
def test_answers_are_read_as_the_models_give_them(name: str, answer: str, categories: set[str]) -> None:
    assert scores(name, answer) == dict.fromkeys(categories, 1.0)
