"""What the folders of results under `experiments/results` share: their files, and paired differences."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memjax.runs.workdir import describe_launch

# Two-sided 95 % points of Student's t, by degrees of freedom: few seeds make wide intervals.
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def write_folder(
    folder: Path,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    lines: Sequence[str],
    draw: Callable[[Path], None],
    *,
    name: str = "scores.csv",
) -> None:
    """Writes the rows as CSV, the lines as `tables.md`, and the picture; prints the lines.

    Args:
        folder: made if it is not there.
        columns: header of the CSV.
        rows: of it.
        lines: of the tables, in Markdown.
        draw: writes a picture to the path that it is given.
        name: of the CSV.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    text = "\n".join(lines)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    draw(folder / "figure.png")
    print(text)


def write_parts(
    folder: Path,
    columns: Sequence[str],
    parts: Sequence[Path],
    tables: Callable[[list[dict[str, str]], str], list[str]],
    draw: Callable[[list[dict[str, str]], Path], None],
) -> None:
    """`write_folder` of the rows of several CSVs together; says so where they hold none.

    Args:
        folder: made if it is not there.
        columns: of the CSVs.
        parts: their paths; a file that is not there has no rows.
        tables: rows and the revision of the source -> lines in Markdown.
        draw: writes a picture of the rows to the path that it is given.
    """
    rows = [row for part in parts for row in read_rows(part)]
    if not rows:
        print(f"no results in {parts[0].parent}")
        return
    cells = ([row[name] for name in columns] for row in rows)
    write_folder(folder, columns, cells, tables(rows, _revision()), lambda path: draw(rows, path))


def take_committed(folder: Path, columns: Sequence[str], part: Callable[[Mapping[str, str]], Path]) -> None:
    """The rows of `write_parts` back into those of its parts that are not there, to go on from.

    Args:
        folder: of the results.
        columns: of the CSVs.
        part: the path that a row belongs to.
    """
    parts: dict[Path, list[list[str]]] = {}
    for row in read_rows(folder / "scores.csv"):
        parts.setdefault(part(row), []).append([row[name] for name in columns])
    for path, rows in parts.items():
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            append_rows(path, columns, rows)


def device_of(launch: Mapping[str, Any]) -> str:
    """Where a launch of `describe_launch` ran: its processor, if it names one, or an accelerator."""
    return launch.get("processor", "CPU") if launch["device"] == "cpu" else launch["device"]


def _revision() -> str:
    """Of the source, for the head of tables."""
    known: Any = describe_launch()["git"] or {}
    return f"{(known.get('revision') or 'unknown')[:12]}{' and changes' if known.get('dirty') else ''}"


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, float, int]:
    """Mean of the differences of the seeds that both have, half its 95 % interval (t), and how many."""
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    n = len(seeds)
    if n == 0:
        return float("nan"), float("nan"), 0
    half = T95[n - 1] * differences.std(ddof=1) / np.sqrt(n) if 1 < n <= 10 else float("nan")
    return float(differences.mean()), float(half), n


def difference(first: Mapping[int, float], second: Mapping[int, float]) -> str:
    """The same as a cell of a table, "-" where no seed has both."""
    mean, half, n = paired(first, second)
    return "-" if not n else f"{mean:+.1f}" if np.isnan(half) else f"{mean:+.1f} ± {half:.1f}"


def spread(values: Iterable[float]) -> str:
    """Mean and standard deviation over seeds as a cell of a table, "-" where there are none."""
    found = np.array(list(values))
    if not len(found):
        return "-"
    return f"{found.mean():.1f} ± {found.std(ddof=1):.1f}" if len(found) > 1 else f"{found[0]:.1f}"


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append_rows(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Adds rows to a CSV, with a header where it is new."""
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(columns)
        writer.writerows(rows)
