"""python -m benchmarks.scaling [--write]: prints the tables, or puts them and the picture into docs/."""

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks.scaling import measured, picture, tables, training

DOCS = Path(__file__).parents[2] / "docs"
PAPER: dict[str, Callable[[], str]] = dict(tables.TABLES)
MEASURED: dict[str, Callable[[], str]] = {
    "host": measured.on_the_host,
    "compared": measured.compared,
    "written": measured.written,
    "training": training.training,
    "trained": training.trained,
    "fed": training.fed,
}


def main(arguments: list[str] | None = None) -> None:
    """Prints or writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--write", action="store_true", help="regenerate docs/scaling.md and its picture")
    if not parser.parse_args(arguments).write:
        print("\n\n".join(f"{name}\n\n{make()}" for name, make in (PAPER | MEASURED).items()))
        return
    page = DOCS / "scaling.md"
    page.write_text(filled(page.read_text(), PAPER | MEASURED))
    picture.draw(DOCS / "scaling.png")


def filled(page: str, blocks: dict[str, Callable[[], str]]) -> str:
    """The page with each block between its markers made anew."""
    for name, make in blocks.items():
        begin, end = markers(name)
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"docs/scaling.md: expected the markers {begin} and {end}")
        page = f"{before}{begin}\n\n{make()}\n\n{end}{after}"
    return page


def markers(name: str) -> tuple[str, str]:
    """What a generated block stands between."""
    return f"<!-- generated: {name} -->", f"<!-- end: {name} -->"


if __name__ == "__main__":
    main()
