"""Code blocks and commands of the documents, as a reader would copy them."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for folder in (".", "docs", "benchmarks", "experiments/results")
    for path in (ROOT / folder).glob("**/*.md" if folder == "experiments/results" else "*.md")
    if path.name != "CHANGELOG.md"
)


class Block(NamedTuple):
    """One block of code: fenced, or indented by four spaces."""

    language: str  # "" where none is named
    text: str


def blocks(document: Path) -> list[Block]:
    """The blocks of a document of the repository, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    fenced = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)]
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^ {4}\S.*\n)+", rest, re.M)
    return [*fenced, *(Block("", re.sub(r"^ {4}", "", each, flags=re.M)) for each in indented)]


def python_files(document: Path) -> dict[str, str]:
    """Python blocks that begin with the comment `# NAME.py`, by that name."""
    named = [block for block in blocks(document) if block.language == "python"]
    return {
        found.group(1): block.text
        for block in named
        if (found := re.match(r"# (\w+\.py)\n", block.text)) is not None
    }


def commands(text: str) -> list[list[str]]:
    """The words of every `memjax` command in a text, continued lines joined and comments left out."""
    joined = text.replace("\\\n", " ")
    found = re.findall(r"^[$ ]*(?:\S*/)?memjax ((?:[a-z]+) .*)$", joined, re.M)
    return [shlex.split(line, comments=True) for line in found]
