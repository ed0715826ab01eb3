"""Reading a job's configuration: a pydantic model, from YAML, with every field overridable on the command line."""

from __future__ import annotations

import argparse
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from filters.errors import ConfigError


class JobConfig(BaseModel):
    """The fields that every job has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    root: str = Field("data", description="data root: a folder or any fsspec URL")
    local: bool = Field(False, description="run in this process, without Ray")
    max_failed_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="more failed shards, or failed rows of those tried, than this share end in exit code 3",
    )


Config = TypeVar("Config", bound=BaseModel)

# What a switch takes for its value: any other word after it is an argument of its own.
_TRUTHS = frozenset({"true", "false", "yes", "no", "on", "off", "1", "0", "t", "f", "y", "n", "null"})


def load_config(model: type[Config], path: str | None, overrides: Sequence[tuple[str, Any]]) -> Config:
    """The configuration from a YAML file (or none) and dotted overrides; ConfigError in one clear line."""
    values = _read_yaml(path) if path else {}
    for dotted, value in overrides:
        _assign(values, dotted, value)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(model, path, [dotted for dotted, _ in overrides], error)) from error


def add_flags(parser: argparse.ArgumentParser, model: type[BaseModel], bare: str | None = None) -> None:
    """A flag for each field, `--config FILE`, `--set a.b=value` and `--dry-run`; an argument without a flag is the
    field `bare`."""
    if bare is not None:
        parser.add_argument("bare", metavar=bare.upper(), nargs="?", help=f"the same as --{bare}")
    parser.add_argument("--config", metavar="FILE", help="YAML file with any of the fields below")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="override a (nested) field")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, then stop")
    for name, field in model.model_fields.items():
        flag = "--" + name.replace("_", "-")
        text = f"{field.description or ''} ({_default(field)})".replace("%", "%%")
        is_switch = field.annotation is bool
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if is_switch else {}
        parser.add_argument(flag, dest=f"field_{name}", metavar=_metavar(field.annotation), help=text, **extra)
    nested = [
        line
        for name, field in model.model_fields.items()
        for prefix, inner in _models(name, field.annotation)
        for line in _nested(prefix, inner)
    ]
    if nested:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.epilog = "\n".join(["nested fields, for --set and --config:", *nested])


def _nested(prefix: str, model: type[BaseModel]) -> list[str]:
    """A line for each field of a model that is itself a field, and for theirs."""
    lines = []
    for name, field in model.model_fields.items():
        lines.append(f"  {prefix}.{name}: {field.description or ''} ({_default(field)})")
        for place, inner in _models(f"{prefix}.{name}", field.annotation):
            lines += _nested(place, inner)
    return lines


def _models(prefix: str, annotation: Any) -> list[tuple[str, type[BaseModel]]]:
    """The model that a field is, or that it has many of by name, and the prefix of its fields."""
    if _is_model(annotation):
        return [(prefix, annotation)]
    named = typing.get_args(annotation) if typing.get_origin(annotation) is dict else ()
    return [(f"{prefix}.NAME", inner) for inner in named if _is_model(inner)]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "see below" if isinstance(value, BaseModel) else f"default {value!r}"


def _is_model(annotation: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def separated(words: Sequence[str], model: type[BaseModel]) -> list[str]:
    """The command line with each switch that no truth value follows spelled out: it must not swallow what does."""
    switches = {
        "--" + name.replace("_", "-") for name, field in model.model_fields.items() if field.annotation is bool
    }
    return [
        f"{word}=true" if word in switches and following.lower() not in _TRUTHS else word
        for word, following in zip(words, [*words, ""][1:], strict=True)
    ]


def parse_flags(
    arguments: argparse.Namespace, model: type[BaseModel], bare: str | None = None
) -> list[tuple[str, Any]]:
    """The overrides that a parsed command line holds, `--set` last."""
    overrides: list[tuple[str, Any]] = []
    if bare is not None and arguments.bare is not None:
        if getattr(arguments, f"field_{bare}") is not None:
            raise ConfigError(f"{arguments.bare}: --{bare} says the same; give one of them")
        overrides.append((bare, _text(arguments.bare, model.model_fields[bare].annotation)))
    for name, field in model.model_fields.items():
        text = getattr(arguments, f"field_{name}")
        if text is not None:
            overrides.append((name, _text(text, field.annotation)))
    for item in arguments.set:
        key, separator, text = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {item}: expected KEY=VALUE, for example --set seed=7")
        overrides.append((key, _scalar(text)))
    return overrides


def _metavar(annotation: Any) -> str:
    kinds = {str: "TEXT", int: "N", float: "X", bool: "BOOL"}
    if isinstance(annotation, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    if typing.get_origin(annotation) is typing.Literal:
        return "{" + ",".join(map(str, typing.get_args(annotation))) + "}"
    return kinds.get(annotation, "YAML")


def _text(text: str, annotation: Any) -> Any:
    """A flag's value: as typed where the field takes text (`null` and a list in brackets where it takes them too), a
    list of texts also with commas and no brackets, everything else as YAML."""
    is_union = isinstance(annotation, types.UnionType)
    kinds = {typing.get_origin(kind) or kind: kind for kind in typing.get_args(annotation)} if is_union else {}
    kinds = kinds or {typing.get_origin(annotation) or annotation: annotation}
    texts = next((kind for origin, kind in kinds.items() if origin in (list, tuple)), None)
    if (text.startswith("[") and texts is not None) or (text == "null" and types.NoneType in kinds):
        return _scalar(text)
    if str in kinds:
        return text
    if typing.get_args(texts) in ((str,), (str, ...)):
        return [part.strip() for part in text.split(",")]
    return _scalar(text)


def _scalar(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    # PyYAML lets a date that is none, such as 2024-13-45, through as a bare ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"value {text!r} is not YAML: {str(error).splitlines()[0]}") from error


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; pass --config an existing YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of fields, found a {type(values).__name__}")
    return values


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    place: Any = values
    for parent in parents:
        place = place[_position(place, parent, dotted)] if isinstance(place, list) else place.setdefault(parent, {})
        if not isinstance(place, dict | list):
            raise ConfigError(f"--set {dotted}: {parent} holds a single value, not fields")
    place[_position(place, last, dotted) if isinstance(place, list) else last] = value


def _position(items: list[Any], part: str, dotted: str) -> int:
    if not (part.isascii() and part.isdigit() and int(part) < len(items)):
        raise ConfigError(f"--set {dotted}: {part} is not a position in a list of {len(items)}; they count from 0")
    return int(part)


def _explain(model: type[BaseModel], path: str | None, overridden: Sequence[str], error: ValidationError) -> str:
    """One line for the first problem: file, field, what was expected, and the closest key for an unknown one."""
    # A misspelt key leaves its field missing too: the spelling is the better news.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
    typed = any(f"{field}.".startswith(f"{dotted}.") for dotted in overridden)
    where = f"{path}: " if path and not typed else "command line: "
    if problem["type"] == "extra_forbidden":
        known = _known_fields(model, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        return f"{where}unknown key {field!r}; {hint}"
    found = "" if problem["type"] == "missing" else f", found {problem['input']!r}"
    return f"{where}field {field!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}{found}"


def _known_fields(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    here: Any = model
    for part in location:
        if isinstance(part, str) and part in getattr(here, "model_fields", {}):
            here = here.model_fields[part].annotation
            while typing.get_args(here):
                here = next((a for a in typing.get_args(here) if a is not type(None) and a is not str), str)
    return list(getattr(here, "model_fields", {}))
