"""What an inspection reports on: classes, severities, actions and fields of findings, as a YAML file names them.

One object is read by whoever needs any of it: the prompt, the grammar that answers are held to, the reports, their
pictures and pages, ROS messages and calibration.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from edge_runtime.errors import SchemaError

SHIPPED = ("bridge", "wind-turbine-blade", "solar-panel", "pipeline")
BOXES = ("one", "none", "several")
FIELD_TYPES = ("enumeration", "integer", "number", "text")

_MOST_BYTES = 1 << 16  # of a file
_MOST = {"classes": 64, "severities": 9, "actions": 32, "fields": 16, "values": 64}
_MOST_FINDINGS = 64
_MOST_CHARS = 1000  # of a text that a model writes
_LARGEST = 10**9  # number that a field may have
_MOST_DECIMALS = 6
_NAME_CHARS, _DEFINITION_CHARS = 40, 200
_DEEPEST = 4  # nesting of a file: a field's values lie in a list, in a mapping, in a mapping, in the document

# In an answer these are a finding's own, and in a report too.
_RESERVED = (
    *("class", "severity", "region", "regions", "boxes", "description", "action"),
    *("confidence", "track_id", "fields"),
)
_IN_NAMES = " _-./%+'"  # beside letters, marks and digits: what separates names in a prompt is in none
_NOT_IN_TEXTS = '<>&[]{}|"\\`'  # HTML, and what special tokens and chat templates are made of


@dataclass(frozen=True)
class Term:
    """A class or a severity, and the line that tells a model what it is; empty where the name says enough."""

    name: str
    definition: str = ""


@dataclass(frozen=True)
class ReportField:
    """Something else that a finding says: one of ``values``, a number of ``unit`` within bounds, or a text."""

    name: str
    type: str  # one of FIELD_TYPES
    values: tuple[str, ...] = ()  # of an enumeration
    minimum: float = 0  # of an integer or a number
    maximum: float = 0
    decimals: int = 0  # of a number
    unit: str = ""  # of an integer or a number
    max_chars: int = 0  # of a text


@dataclass(frozen=True)
class ReportSchema:
    """A kind of inspection. :func:`load_schema` reads and checks one."""

    name: str
    subject: str  # what is looked at: "the structure"
    classes: tuple[Term, ...]
    severities: tuple[Term, ...]  # mildest first
    actions: tuple[str, ...] = ()  # mildest first; none: findings have no action
    fields: tuple[ReportField, ...] = ()
    boxes: str = "one"  # one of BOXES: how many a finding has
    max_findings: int = 8
    max_description_chars: int = 120
    language: str = ""  # of descriptions, in any script; empty: whatever the prompt is in, in ASCII letters

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in their order."""
        return tuple(term.name for term in self.classes)

    @cached_property
    def severity_names(self) -> tuple[str, ...]:
        """Names of the severities, mildest first."""
        return tuple(term.name for term in self.severities)

    def severity_level(self, name: str) -> int:
        """How grave a severity is: 0 for the mildest.

        Raises:
            ValueError: it is none of this schema's.
        """
        if name not in self.severity_names:
            raise ValueError(f"{name!r} is no severity of {self.name}; there are {', '.join(self.severity_names)}")
        return self.severity_names.index(name)

    def instruction(self, coordinate_steps: int, coordinate_unit: str = "steps") -> str:
        """What a model is asked for, where corners are written in so many steps of the image's width and height, or in
        its ``pixels``."""
        steps = _STEPS.get(coordinate_steps, f"1/{coordinate_steps}")
        unit = "pixels" if coordinate_unit == "pixels" else steps
        where = f"x_min, y_min, x_max, y_max in {unit} of the image"
        said = [f"class ({', '.join(self.class_names)})", f"severity ({', '.join(self.severity_names)})"]
        if self.boxes == "one":
            said.append(f"region ({where})")
        elif self.boxes == "several":
            said.append(f"regions (1 to {MOST_BOXES} boxes of {where})")
        said += [f"{each.name} ({_expected(each)})" for each in self.fields]
        said.append(f"description (in {self.language})" if self.language else "description")
        if self.actions:
            said.append(f"action ({', '.join(self.actions)})")
        text = (
            f"Inspect {self.subject} in this photograph. Answer with JSON: a list of findings, each with its "
            f"{', '.join(said[:-1])}, and {said[-1]}. No defect: no findings."
        )
        for terms in (self.classes, self.severities):
            defined = [f"{term.name}: {term.definition}" for term in terms if term.definition]
            text += f" {'; '.join(defined)}." if defined else ""
        return text

    def document(self) -> dict[str, Any]:
        """The schema as plain dicts, lists, texts and numbers, in the form of its file."""
        document: dict[str, Any] = {
            "name": self.name,
            "subject": self.subject,
            "classes": {term.name: term.definition for term in self.classes},
            "severities": {term.name: term.definition for term in self.severities},
            "actions": list(self.actions),
            "fields": {each.name: _field_document(each) for each in self.fields},
            "boxes": self.boxes,
            "max_findings": self.max_findings,
            "max_description_chars": self.max_description_chars,
            "language": self.language,
        }
        return {key: value for key, value in document.items() if value not in ("", [], {})}


MOST_BOXES = 4  # of a finding that may have several
_STEPS = {100: "hundredths", 1000: "thousandths"}


def load_schema(schema: str | Path | ReportSchema) -> ReportSchema:
    """One of :data:`SHIPPED` by its name, or the schema in a YAML file; a schema is given back as it is.

    Raises:
        SchemaError: there is no such schema or file, or it is not one that can be inspected by.
    """
    if isinstance(schema, ReportSchema):
        return schema
    if str(schema) in SHIPPED:
        return schema_from_yaml(files("edge_runtime.reports").joinpath(f"schemas/{schema}.yaml").read_bytes(), schema)
    try:
        with open(schema, "rb") as file:
            return schema_from_yaml(file.read(_MOST_BYTES + 1), schema)
    except FileNotFoundError as error:
        raise SchemaError(
            f"there is no report schema {str(schema)!r}: no file has that path, and those that come along are "
            f"{', '.join(SHIPPED)}"
        ) from error
    except (OSError, ValueError) as error:
        if isinstance(error, SchemaError):
            raise
        raise SchemaError(f"the report schema {str(schema)!r} cannot be read: {error}") from error


def schema_from_yaml(written: bytes, where: str | Path = "the schema") -> ReportSchema:
    """The schema in a YAML text; ``where`` is what messages call it.

    Every value is taken as it is written: no word of YAML's own (no, on, null, 1e3) becomes anything else.

    Raises:
        SchemaError: it is too long, no YAML of plain texts, lists and mappings, or not a schema to inspect by.
    """
    if len(written) > _MOST_BYTES:
        raise SchemaError(f"{where}: the file has more than {_MOST_BYTES} bytes, and no report schema needs so many")
    try:
        text = written.decode("utf-8-sig")
        _check_events(text)
        document = _plain(yaml.compose(text, Loader=yaml.BaseLoader))
        return schema_from_document(document)
    except SchemaError as error:
        raise SchemaError(f"{where}: {error}") from error
    except UnicodeDecodeError as error:
        raise SchemaError(f"{where}: the file is not UTF-8 ({error}); save it as such") from error
    except yaml.YAMLError as error:
        raise SchemaError(f"{where}: the file is no YAML: {' '.join(str(error).split())[:300]}") from error


def schema_from_document(document: Any) -> ReportSchema:
    """The schema that plain mappings, lists and texts spell, as :meth:`ReportSchema.document` gives them.

    Raises:
        SchemaError: something is missing, unknown, too much, contradictory, or no text to be put into a prompt.
    """
    values = _mapping(document, "the schema")
    _only(values, "the schema", _TOP_KEYS, needed=("name", "subject", "classes", "severities"))
    boxes = values.get("boxes", "one")
    if boxes not in BOXES:
        raise SchemaError(f"boxes is {_shown(boxes)}; expected {', '.join(BOXES)}")
    actions = _names(values.get("actions", []), "actions", least=0)
    return ReportSchema(
        name=_name(values["name"], "name"),
        subject=_text(values["subject"], "subject"),
        classes=_terms(values["classes"], "classes"),
        severities=_terms(values["severities"], "severities"),
        actions=actions,
        fields=_fields(values.get("fields", {})),
        boxes=boxes,
        max_findings=_whole(values.get("max_findings", 8), "max_findings", 1, _MOST_FINDINGS),
        max_description_chars=_whole(values.get("max_description_chars", 120), "max_description_chars", 0, _MOST_CHARS),
        language=_name(values["language"], "language") if values.get("language") else "",
    )


_TOP_KEYS = "name, subject, classes, severities, actions, fields, boxes, max_findings, max_description_chars, language"
_FIELD_KEYS = {
    "enumeration": "type, values",
    "integer": "type, minimum, maximum, unit",
    "number": "type, minimum, maximum, decimals, unit",
    "text": "type, max_chars",
}


def _check_events(text: str) -> None:
    """Refuse what a schema has no use for, before any of it is put together."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        line = _line(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SchemaError(f"{line} has an anchor or an alias (& or *); write it out, or put the text into quotes")
        if tag := getattr(event, "tag", None):
            raise SchemaError(f"{line} has a tag ({tag}); leave it out, or put the text into quotes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            raise SchemaError(f"{line} is nested deeper than anything in a schema")


def _plain(node: yaml.Node | None) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name, line = _plain(key), _line(key)
            if not isinstance(name, str):
                raise SchemaError(f"{line} has {_shown(name)} where a name is expected")
            if name in found:
                raise SchemaError(f"{line} has the name {name!r} a second time")
            found[name] = _plain(value)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item) for item in node.value]
    return node.value if isinstance(node, yaml.ScalarNode) else None


def _line(part: yaml.Event | yaml.Node) -> str:
    return f"line {part.start_mark.line + 1}" if part.start_mark else "a line"


def _terms(value: Any, where: str) -> tuple[Term, ...]:
    """Names with a line each, as a mapping; or names alone, as a list."""
    if isinstance(value, list):
        value = dict.fromkeys(_names(value, where), "")
    pairs = _mapping(value, where)
    names = _names(list(pairs), where)
    lines = [_text(line, f"the line on {name}", most=_DEFINITION_CHARS) if line else "" for name, line in pairs.items()]
    return tuple(map(Term, names, lines))


def _fields(value: Any) -> tuple[ReportField, ...]:
    pairs = _mapping(value, "fields")
    names = _names(list(pairs), "fields", least=0)
    reserved = {_folded(name): name for name in _RESERVED}
    for name in names:
        if _folded(name) in reserved:
            raise SchemaError(f"the field {name} has a name that findings use already; give it another")
    return tuple(_field(name, pairs[name]) for name in names)


def _field(name: str, value: Any) -> ReportField:
    where = f"the field {name}"
    values = _mapping(value, where)
    kind = values.get("type")
    if kind not in FIELD_TYPES:
        raise SchemaError(f"{where} has the type {_shown(kind)}; expected {', '.join(FIELD_TYPES)}")
    needed = {"enumeration": ("values",), "text": ("max_chars",)}.get(kind, ("minimum", "maximum"))
    _only(values, where, _FIELD_KEYS[kind], needed)
    if kind == "enumeration":
        return ReportField(name, kind, values=_names(values["values"], f"{where}: values", key="values"))
    if kind == "text":
        return ReportField(name, kind, max_chars=_whole(values["max_chars"], f"{where}: max_chars", 1, _MOST_CHARS))
    number: Callable[[Any, str], float] = _integer if kind == "integer" else _number
    minimum, maximum = (number(values[bound], f"{where}: {bound}") for bound in ("minimum", "maximum"))
    if not -_LARGEST <= minimum < maximum <= _LARGEST:
        raise SchemaError(
            f"{where} goes from {minimum} to {maximum}; expected a smaller and a larger one, up to {_LARGEST}"
        )
    decimals = _whole(values.get("decimals", 0), f"{where}: decimals", 0, _MOST_DECIMALS)
    if kind == "number" and "decimals" not in values:
        decimals = 1
    if any(round(bound, decimals) != bound for bound in (minimum, maximum)):
        raise SchemaError(f"{where} has a bound of more than {decimals} decimals, which no answer could have")
    unit = _text(values["unit"], f"{where}: unit", most=_NAME_CHARS) if values.get("unit") else ""
    return ReportField(name, kind, minimum=minimum, maximum=maximum, decimals=decimals, unit=unit)


def _field_document(field: ReportField) -> dict[str, Any]:
    said = {"type": field.type}
    if field.type == "enumeration":
        return {**said, "values": list(field.values)}
    if field.type == "text":
        return {**said, "max_chars": field.max_chars}
    bounds = {"minimum": field.minimum, "maximum": field.maximum}
    decimals = {"decimals": field.decimals} if field.type == "number" else {}
    return {**said, **bounds, **decimals, **({"unit": field.unit} if field.unit else {})}


def _expected(field: ReportField) -> str:
    """What a field may hold, in a prompt's words."""
    if field.type == "enumeration":
        return ", ".join(field.values)
    if field.type == "text":
        return f"up to {field.max_chars} characters"
    kind = "a whole number" if field.type == "integer" else "a number"
    return f"{kind} from {field.minimum:g} to {field.maximum:g}{f' in {field.unit}' if field.unit else ''}"


def _names(value: Any, where: str, least: int = 1, key: str | None = None) -> tuple[str, ...]:
    """Names of which no two would be taken for one."""
    most = _MOST[key or where]
    if not isinstance(value, list) or not least <= len(value) <= most:
        found = f"has {len(value)}" if isinstance(value, (list, dict)) else f"is {_shown(value)}"
        raise SchemaError(f"{where} {found}; expected a list of {least} to {most} names")
    names = tuple(_name(each, f"{where}, no. {number}") for number, each in enumerate(value, start=1))
    seen: dict[str, str] = {}
    for name in names:
        if (other := seen.setdefault(_folded(name), name)) is not name:
            raise SchemaError(f"{where} has {other!r} and {name!r}, which a reader would take for one; rename one")
    return names


def _name(value: Any, where: str) -> str:
    name = _text(value, where, most=_NAME_CHARS)
    if wrong := _others(name, "LMN", _IN_NAMES, ""):
        raise SchemaError(f"{where} is {name!r}, and a name has no {wrong!r}: letters, digits and {_IN_NAMES.strip()}")
    return name


def _text(value: Any, where: str, most: int = _DEFINITION_CHARS) -> str:
    """A text that is safe in a prompt, in HTML and on a terminal.

    Raises:
        SchemaError: it is none.
    """
    if not isinstance(value, str):
        raise SchemaError(f"{where} is {_shown(value)}; expected a text")
    if not 0 < len(value) <= most:
        raise SchemaError(f"{where} has {len(value)} characters; expected 1 to {most}")
    if value != value.strip() or "  " in value:
        raise SchemaError(f"{where} is {_shown(value)}; leave out spaces at its ends, and two in a row")
    if wrong := _others(value, "LMNPS", " ", _NOT_IN_TEXTS):
        raise SchemaError(
            f"{where} is {_shown(value)}, which has {wrong!r}; control characters, HTML and brackets are none of a "
            "schema's texts"
        )
    return unicodedata.normalize("NFC", value)


def _others(text: str, categories: str, also: str, but: str) -> str:
    """The first character that may not be there."""
    wrong = (c for c in text if c in but or (unicodedata.category(c)[0] not in categories and c not in also))
    return next(wrong, "")


def _folded(name: str) -> str:
    """A name without what a reader overlooks: case, width, and how words are separated."""
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c not in " _-")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SchemaError(f"{where} is {_shown(value)}; expected names with values (name: value)")
    return value


def _only(values: Mapping[str, Any], where: str, known: str, needed: Collection[str]) -> None:
    if missing := [key for key in needed if key not in values]:
        raise SchemaError(f"{where} lacks {', '.join(missing)}")
    if unknown := [key for key in values if key not in known.split(", ")]:
        raise SchemaError(f"{where} has {_shown(unknown[0])}, which means nothing; it may have {known}")


def _whole(value: Any, where: str, least: int, most: int) -> int:
    number = _integer(value, where)
    if not least <= number <= most:
        raise SchemaError(f"{where} is {number}; expected {least} to {most}")
    return number


def _integer(value: Any, where: str) -> int:
    number = _number(value, where)
    if number != int(number):
        raise SchemaError(f"{where} is {_shown(value)}; expected a whole number")
    return int(number)


def _number(value: Any, where: str) -> float:
    """A number as JSON has it, or as it is written in a text."""
    if type(value) in (int, float) and abs(value) <= _LARGEST:
        return float(value)
    digits = value.removeprefix("-").replace(".", "", 1) if isinstance(value, str) else ""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 2 * _MOST_DECIMALS + 4):
        raise SchemaError(f"{where} is {_shown(value)}; expected a number, such as 12.5")
    return float(value)


def _shown(value: Any) -> str:
    return f"{str(value)[:60]!r}" if isinstance(value, str) else f"{value!s:.60}"


BRIDGE = load_schema("bridge")
