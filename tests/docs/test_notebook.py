"""The notebook: a valid one, without outputs, and its cells run from top to bottom."""

import ast
import json

import pytest
from doc_blocks import ROOT

NOTEBOOK = ROOT / "examples" / "memory_story.ipynb"
if not NOTEBOOK.is_file():
    pytest.skip("no examples beside the tests", allow_module_level=True)
SIZES = {"ROUNDS, LIMIT, SEEDS = 30, 300, 3": "ROUNDS, LIMIT, SEEDS = 12, 100, 2"}


def notebook():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))


def cells(kind):
    return ["".join(cell["source"]) for cell in notebook()["cells"] if cell["cell_type"] == kind]


def test_it_is_a_notebook_that_installs_first_and_keeps_no_outputs():
    found = notebook()
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids) == len(found["cells"])
    for cell in found["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    install, *rest = cells("code")
    assert "%pip install" in install
    for text in rest:
        ast.parse(text)


def test_it_meets_the_format_where_nbformat_is_installed():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.slow
def test_its_cells_show_what_the_text_says():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("Agg")
    program = "\n\n".join(cells("code")[1:])
    for line, smaller in SIZES.items():
        assert line in program
        program = program.replace(line, smaller)
    names = {}
    exec(compile(program, str(NOTEBOOK), "exec"), names)
    assert len(plt.get_fignums()) == 3
    plt.close("all")
    assert int(names["full"].valid.sum()) == 200
    returns = names["returns"]
    assert returns["with"][:, -4:].mean() > 1.5 * returns["without"].mean()
    assert returns["without"].max() < 40  # random actions fall over after some 20 steps
    assert names["by_both"][-10:].mean() > 2 * names["by_similarity"].mean()
    assert abs(names["by_similarity"].mean() - 0.2) < 0.1  # two of ten notes help
