"""From a policy's words to backends, without loading what they need."""

import subprocess
import sys

import pytest

from services.moderation.backends.building import build_backend
from services.moderation.backends.guard import GuardBackend
from services.moderation.backends.hugging_face import HuggingFaceBackend
from services.moderation.policy import BackendSpec, GuardSpec, TextClassificationSpec, parse_policy
from shared.errors import SettingsError

POLICY = """
version: all-1
streaming: {checkpoint: 64, hold_back: 96}
backends:
  encoder: {kind: encoder}
  toxicity: {kind: text-classification, model: some/model, labels: {toxic: harassment}}
  guard: {kind: guard, model: some/guard, template: "{{ messages }}", safe: safe, labels: {S1: violence}}
  openai: {kind: upstream, base_url: "https://api.openai.com/v1"}
  personal-data: {kind: personal-data, entities: {EMAIL_ADDRESS: personal}}
  secrets: {kind: secrets, category: secrets}
categories: {harassment: {}, violence: {}, personal: {}, secrets: {}}
"""
HEAVY = ("torch", "transformers", "presidio_analyzer", "detect_secrets", "tokenizers")


def test_every_kind_of_the_schema_is_built_under_its_name() -> None:
    backends = parse_policy(POLICY).backends
    assert {kind for spec in backends.values() for kind in [spec.kind]} == {
        kind for spec in BackendSpec.__args__ for kind in spec.model_fields["kind"].annotation.__args__
    }
    for name, spec in backends.items():
        assert build_backend(name, spec).name == name


def test_nothing_heavy_is_imported_before_one_is_started() -> None:
    code = f"""
import sys
sys.modules.update(dict.fromkeys({HEAVY!r}))
from services.moderation.backends.building import build_backend
from services.moderation.policy import parse_policy
for name, spec in parse_policy({POLICY!r}).backends.items():
    build_backend(name, spec)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["torch", "transformers"])
async def test_without_the_extra_a_model_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for module in [name for name in sys.modules if name.startswith("services.moderation.backends.classification")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, missing, None)
    classifier = TextClassificationSpec(kind="text-classification", model="some/model", labels={"toxic": "harassment"})
    with pytest.raises(SettingsError, match=r"toxicity .* needs torch and transformers: pip install 'chatmesh\[inf"):
        await HuggingFaceBackend("toxicity", classifier).start()
    if missing == "torch":
        guard = GuardSpec(kind="guard", model="some/guard", template="x", safe="safe", labels={"S1": "violence"})
        with pytest.raises(SettingsError, match=r"guard .* needs torch and transformers: pip install 'chatmesh\[inf"):
            await GuardBackend("guard", guard).start()
