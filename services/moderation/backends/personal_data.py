"""Personal data, found by presidio-analyzer's recognisers of patterns: offline, without a model of language.

Recognisers check what they find (a card's and an IBAN's check digits, an address's domain, a number's plan), and their
scores say how much that proves: e-mail addresses, cards and IBANs 1, IP addresses 0.6, American social security numbers
0.5, phone numbers 0.4. The category's thresholds must suit them. What presidio believes only beside certain words
("passport", "ssn") is left out, for a verdict must not depend on what else a window happens to show.

    backends:
      personal-data: {kind: personal-data, entities: {EMAIL_ADDRESS: personal-data, PHONE_NUMBER: personal-data}}
    categories:
      personal-data: {output: mask, thresholds: {flag: 0.4, cut: 0.4}, mask: "[personal data]"}

A mask hides all of what is at most `streaming.hold_back - streaming.checkpoint` code points long, since so much of what
follows has been seen when a code point becomes public: 64 for most addresses, 34 for an IBAN (42 with its spaces).
"""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from types import ModuleType
from typing import Any

from services.moderation.backends.finding import Finder, FindingBackend, Found
from services.moderation.policy import PersonalDataSpec
from shared.errors import SettingsError

Analyze = Callable[[str], Iterable[Any]]
"""A text's results, as one recogniser of presidio has them for one entity."""

LEAST_SCORE = 0.4
"""What presidio gives less for counts only beside words that confirm it."""

_REGIONS = {
    "de": ("DE", "AT", "CH"),
    "en": ("US", "GB"),
    "es": ("ES", "MX"),
    "fr": ("FR", "BE", "CH"),
    "it": ("IT",),
    "nl": ("NL", "BE"),
    "pl": ("PL",),
    "pt": ("BR", "PT"),
}
"""Whose national phone numbers a policy's `language` means; numbers that begin with + are found everywhere."""
_DEFAULT_REGIONS = ("US", "GB", "DE", "FR", "IN", "BR")


def personal_data_backend(name: str, spec: PersonalDataSpec) -> FindingBackend:
    """A backend, not started. `start` raises SettingsError for entities that presidio lacks."""
    return FindingBackend(name, frozenset(spec.entities.values()), lambda: _load(name, spec))


def _load(name: str, spec: PersonalDataSpec) -> Finder:
    known = _recognizers(name, spec.language)
    if unknown := sorted(spec.entities.keys() - known.keys()):
        raise SettingsError(
            f"backend {name}: presidio has no pattern for {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    chosen = {entity: known[entity] for entity in spec.entities}

    def find(text: str) -> Iterator[Found]:
        for entity, recognizers in chosen.items():
            for analyze in recognizers:
                yield from _found(spec.entities[entity], analyze(text))

    list(find("warm-up@example.com, +1 650-253-0000"))
    return Finder(find, f"presidio-analyzer-{version('presidio-analyzer')}")


def _found(category: str, results: Iterable[Any]) -> Iterator[Found]:
    return (
        Found(category, result.start, result.end, float(result.score))
        for result in results
        if result.score >= LEAST_SCORE
    )


def _recognizers(name: str, language: str) -> Mapping[str, list[Analyze]]:
    """Entity → the recognisers of patterns that find it."""
    try:
        _leave_models_out()
        import phonenumbers  # noqa: F401 - presidio needs it only once it looks for a number
        from presidio_analyzer import PatternRecognizer, predefined_recognizers
    except ImportError as error:
        raise SettingsError(
            f"backend {name} (personal-data) needs presidio-analyzer: pip install 'chatmesh[detectors]' ({error})"
        ) from error
    # It logs texts that it cannot make sense of.
    logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL + 1)
    classes = [getattr(predefined_recognizers, exported) for exported in predefined_recognizers.__all__]
    offline: dict[type, Callable[[], Any]] = {predefined_recognizers.EmailRecognizer: _offline_email_recognizer}
    patterns = [kind for kind in classes if isinstance(kind, type) and issubclass(kind, PatternRecognizer)]
    recognizers: list[Any] = [offline.get(kind, kind)() for kind in patterns]
    regions = _REGIONS.get(language, _DEFAULT_REGIONS)
    known: dict[str, list[Analyze]] = {}
    for recognizer in (*recognizers, predefined_recognizers.PhoneRecognizer(supported_regions=regions)):
        for entity in recognizer.supported_entities:
            known.setdefault(entity, []).append(_analyze(recognizer, entity))
    return known


def _analyze(recognizer: Any, entity: str) -> Analyze:
    return lambda text: recognizer.analyze(text, [entity], None)


def _offline_email_recognizer() -> Any:
    """Presidio's, but with the list of public suffixes that came with tldextract: it would download a new one."""
    from presidio_analyzer.predefined_recognizers import EmailRecognizer
    from tldextract import TLDExtract

    extract = TLDExtract(suffix_list_urls=(), cache_dir=None)

    class OfflineEmailRecognizer(EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return bool(extract(pattern_text).fqdn)

    return OfflineEmailRecognizer()


_LEFT_OUT = (
    "presidio_analyzer.nlp_engine",
    "presidio_analyzer.predefined_recognizers.ner.gliner_recognizer",
    "presidio_analyzer.predefined_recognizers.ner.huggingface_ner_recognizer",
    "presidio_analyzer.predefined_recognizers.ner.medical_ner_recognizer",
)


class _LeftOut(ModuleType):
    """Stands for presidio's engines that read grammar, and for its recognisers that are models. Recognisers of patterns
    name types of theirs, and use none."""

    def __getattr__(self, attribute: str) -> type:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return object


def _leave_models_out() -> None:
    """Presidio imports spaCy and transformers (and they torch), whether or not any of it is used: many seconds, and a
    quarter of a gigabyte that `requirements/excludes.in` leaves out."""
    for left_out in _LEFT_OUT:
        sys.modules.setdefault(left_out, _LeftOut(left_out))
