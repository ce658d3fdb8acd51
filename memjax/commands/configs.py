"""`memjax configs`: the shipped configs by name, or the fields of one with their meaning."""

import ast
import dataclasses
import importlib.resources
import inspect
import io
import textwrap
import tokenize
import typing
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

from memjax.config_file import SHIPPED, find_config, load_config, shipped_configs
from memjax.runs.imports import import_all
from memjax.types import ConfigError

WIDTH = 100  # of the lists
COLUMN = 44  # where the comments begin


def run(source: str | None, *, imports: Sequence[str] = ()) -> int:
    """Prints the names of all shipped configs, or what `source` holds. Returns the exit code."""
    import_all(imports)
    if source is None:
        print(listing())
    else:
        print(description(source))
    return 0


def listing() -> str:
    """One line for each shipped config: its name, and what it is for."""
    names = shipped_configs()
    width = max(map(len, names))
    files = importlib.resources.files(SHIPPED)
    about = [_first_line((files / f"{name}.py").read_text(encoding="utf-8")) for name in names]
    lines = [f"{name.ljust(width)}  {text}" for name, text in zip(names, about, strict=True)]
    return "\n".join([*lines, "", "memjax configs NAME[:VARIANT] prints the fields and variants of one."])


def description(source: str) -> str:
    """Every field of a config as `name = value  # meaning`, then its variants.

    Raises ConfigError where there is no such config, or a field of it is wrong.
    """
    module, _ = find_config(source)
    lines = [line for part in _resolved(source) for line in part]
    variants = _variants(module)
    about = inspect.getdoc(module)
    head = [about.splitlines()[0], ""] if about else []
    return "\n".join([*head, *lines, *(["", *variants] if variants else [])])


def comments_of(section: type) -> dict[str, str]:
    """What a dataclass says above or beside its fields, by name; fields without a comment are left out."""
    source = textwrap.dedent(inspect.getsource(section))
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    rows = {token.start[0]: token.string.lstrip("# ") for token in comments}
    alone = {token.start[0] for token in comments if token.line.lstrip().startswith("#")}
    (body,) = (node.body for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    fields = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    found = {}
    for field in fields:
        first, last = field.lineno, field.end_lineno or field.lineno
        while first - 1 in alone:
            first -= 1
        said = [rows[row] for row in range(first, last + 1) if row in rows]
        if said:
            found[ast.unparse(field.target)] = " ".join(said).removesuffix(".")
    return found


def _resolved(source: str) -> Iterator[list[str]]:
    """The lines of each section of a checked config."""
    config = load_config(source)
    if "language" in config:
        from memjax.commands.remember import resolve_language

        yield from _sections("", resolve_language(config))
        return
    from memjax.training.config import resolve

    resolved = resolve(config)
    shown = ("experiment", "seed", "num_seeds", "env", "data", "agent", "run")
    said = comments_of(type(resolved))
    yield [_line(name, getattr(resolved, name), said.get(name, "")) for name in shown[:3]]
    for name in shown[3:]:
        section = getattr(resolved, name)
        if section is not None:
            first = [_line("agent.name", resolved.agent_name, "")] if name == "agent" else []
            yield ["", *first]
            yield from _sections(f"{name}.", section)
    for name, section in resolved.sinks.items():
        yield [""]
        yield from _sections(f"sinks.{name}.", section)


def _sections(prefix: str, section: Any) -> Iterator[list[str]]:
    """The lines of a dataclass: its own fields, then those of the sections in it."""
    said, hints = comments_of(type(section)), typing.get_type_hints(type(section))
    inner = []
    lines = []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            inner.append((f"{prefix}{field.name}.", value))
        elif isinstance(value, Mapping) and value:
            lines += [_line(f"{prefix}{field.name}.{name}", each, "") for name, each in value.items()]
        elif f"{prefix}{field.name}" != "agent.name":
            meaning = [said.get(field.name, ""), _choices(hints[field.name])]
            lines.append(_line(f"{prefix}{field.name}", value, "; ".join(filter(None, meaning))))
    yield lines
    for name, value in inner:
        yield [""] if prefix == "" else []
        yield from _sections(name, value)


def _choices(hint: Any) -> str:
    """The allowed words of a field that has a fixed set of them."""
    return " | ".join(map(str, typing.get_args(hint))) if typing.get_origin(hint) is Literal else ""


def _line(name: str, value: Any, comment: str) -> str:
    text = f"{name} = {value!r}"
    return f"{text:<{COLUMN}}  # {comment}" if comment else text


def _variants(module: ModuleType) -> list[str]:
    """The variants of a config in groups that have one description, where the module has a table of them."""
    known = getattr(module, "VARIANTS", None)
    if not isinstance(known, Mapping):
        return []
    groups: dict[str, list[str]] = {}
    for name, change in known.items():
        about = inspect.getdoc(getattr(change, "func", change)) or ""
        groups.setdefault(about.partition("\n")[0], []).append(str(name))
    lines = ["variants, joined by +:"]
    for about, names in groups.items():
        lines += textwrap.wrap(" ".join(names), WIDTH, initial_indent="  ", subsequent_indent="  ")
        lines += [f"      {about}"] if about else []
    return lines


def _first_line(source: str) -> str:
    doc = ast.get_docstring(ast.parse(source))
    if not doc:
        raise ConfigError("--config", "a config that begins with a docstring", "none")
    return doc.splitlines()[0]
