"""`python -m deploy.kubernetes.crds FILE...`: JSON Schemas for kubeconform from CustomResourceDefinitions.

Written to deploy/kubernetes/schemas, whose README says which release of which project they come from. Fields that
the definition does not know are refused, as with `kubectl --validate=strict`. Rules in CEL are beyond JSON Schema, and
`status` is not ours to write.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).parent / "schemas"
KEPT = frozenset(
    {
        "type",
        "format",
        "enum",
        "pattern",
        "required",
        "nullable",
        "items",
        "properties",
        "additionalProperties",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
    }
)
"""Keywords that decide what is valid; descriptions are nine tenths of a definition."""


def schemas_of(definition: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name of the file, as kubeconform is told to look for it, and schema, of the version that is stored."""
    spec = definition["spec"]
    for version in (version for version in spec["versions"] if version["storage"]):
        schema = strict(version["schema"]["openAPIV3Schema"])
        schema["properties"].pop("status", None)
        yield f"{spec['group']}/{spec['names']['kind'].lower()}_{version['name']}.json", schema


def strict(node: dict[str, Any]) -> dict[str, Any]:
    """The schema of one value, without words, and closed unless it says that unknown fields are kept."""
    kept = {key: value for key, value in node.items() if key in KEPT}
    if node.get("x-kubernetes-int-or-string"):
        kept.pop("type", None)
        kept["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in kept:
        kept["properties"] = {name: strict(value) for name, value in kept["properties"].items()}
        if not node.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(kept.get(key), dict):
            kept[key] = strict(kept[key])
    if kept.pop("nullable", False) and "type" in kept:
        kept["type"] = [kept["type"], "null"]
    return kept


def main(argv: Sequence[str]) -> None:
    """Write the schemas of every definition in the files."""
    for file in argv:
        for definition in yaml.safe_load_all(Path(file).read_text()):
            for name, schema in schemas_of(definition):
                path = SCHEMAS / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")
                print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
