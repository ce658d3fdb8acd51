"""Compares rows that a model wrote as text with the rows that a query returned."""

import ast
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from memjax.llm.tasks.databases.sql import Value

_TOLERANCE = 1e-6  # relative and absolute, as the benchmark has it
_DECIMAL = re.compile(r"Decimal\(\s*['\"]?([^'\")]*)['\"]?\s*\)")

Row = tuple[Value, ...]


def same_rows(written: str, expected: Sequence[Sequence[Value]], *, ordered: bool) -> bool:
    """Whether a written answer has the expected rows.

    Args:
      written: the model's answer, such as "[(1, 'a'), (2, 'b')]"; it is parsed leniently.
      expected: the rows of the query. Numbers are compared with a tolerance of 1e-6.
      ordered: whether the rows must be in the expected order.
    """
    rows = _rows(written, width=len(expected[0]) if expected else 1)
    if rows is None or len(rows) != len(expected):
        return False
    if not ordered:
        rows, expected = sorted(rows, key=_order), sorted(map(tuple, expected), key=_order)
        if Counter(map(_order, rows)) == Counter(map(_order, expected)):
            return True
    return all(_same_row(got, want) for got, want in zip(rows, expected, strict=True))


def _rows(written: str, width: int) -> list[Row] | None:
    """The rows in a text; None where they cannot be parsed. `width` is the expected number of columns."""
    text = _DECIMAL.sub(r"\1", written.strip()).rstrip(".;")
    if not text:
        return []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _unquoted(text, width)
    if not isinstance(found, list | tuple | set):
        return [(found,)]
    items = list(found)
    if all(isinstance(item, list | tuple) for item in items):
        return [tuple(item) for item in items]
    if any(isinstance(item, list | tuple) for item in items):
        return None
    return [(item,) for item in items] if width == 1 else [tuple(items)]


def _unquoted(text: str, width: int) -> list[Row] | None:
    """Rows whose texts have no quotes, such as "(1, Alpha Corp), (2, Beta)"."""
    inner = re.findall(r"\(([^()]*)\)", text)
    rows = [_cells(part) for part in inner] or [_cells(text.strip("[]"))]
    if not inner and width == 1:
        return [(cell,) for cell in rows[0]]
    return rows


def _cells(text: str) -> Row:
    return tuple(cell.strip().strip("'\"") for cell in text.split(",") if cell.strip())


def _same_row(got: Sequence[Value], want: Sequence[Value]) -> bool:
    return len(got) == len(want) and all(map(_same, got, want))


def _same(got: Value, want: Value) -> bool:
    if isinstance(want, int | float):
        number = _number(got)
        return number is not None and math.isclose(number, want, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return str(got).strip() == str(want).strip()


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _order(row: Sequence[Value]) -> tuple[str, ...]:
    """A key for sorting that is the same for 5, 5.0 and "5"."""
    return tuple(f"{number:.4f}" if (number := _number(v)) is not None else str(v).strip() for v in row)
