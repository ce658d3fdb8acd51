"""Links between the documents, and the pages of the site."""

import re

import pytest
from doc_blocks import DOCUMENTS, ROOT

if not (ROOT / "mkdocs.yml").is_file():
    pytest.skip("no site beside the tests", allow_module_level=True)

CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.M | re.S)
GENERATED = {"docs/commands.md", "docs/configs.md"}  # docs/site_pages.py makes them


def without_code(document):
    return CODE.sub("", (ROOT / document).read_text(encoding="utf-8"))


def anchors(path):
    """What a link to a heading is called, as GitHub and the site make it."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        assert path.exists(), target
        assert path.resolve().is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(path), target


def pages(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            (inner,) = entry.values()
            yield from pages(inner if isinstance(inner, list) else [inner])


def test_every_document_is_a_page_of_the_site():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    named = list(pages(config["nav"]))
    assert len(set(named)) == len(named)
    written = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert written | GENERATED == {name for name in named if name.startswith("docs/")}
    assert not written & GENERATED
    for name in set(named) - GENERATED - {"api"}:
        assert (ROOT / name).is_file(), name
