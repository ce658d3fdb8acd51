"""What users call says what it takes: the docstring of every public function names its arguments."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "memjax"
FACES = sorted(PACKAGE.glob("*/__init__.py"))  # a part's own functions, and what its `__all__` names

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def offered(face: Path) -> Iterator[tuple[str, ast.stmt]]:
    """Name and definition of everything that a part offers, wherever it is defined."""
    tree = tree_of(face)
    names, origin = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = set(ast.literal_eval(node.value))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("memjax."):
            origin |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
    for name in sorted(names & origin.keys()):
        module, original = origin[name]
        path = PACKAGE.parent / module.replace(".", "/")
        file = path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"
        for node in tree_of(file).body:
            if isinstance(node, Function | ast.ClassDef) and node.name == original:
                yield name, node


def functions(name: str, node: ast.stmt) -> Iterator[tuple[str, Function]]:
    """A function, or the public methods of a class and its `__call__`."""
    if isinstance(node, Function):
        yield name, node
    for each in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(each, Function) and (each.name == "__call__" or not each.name.startswith("_")):
            yield f"{name}.{each.name}", each


def unnamed(function: Function) -> list[str]:
    """The arguments of a function that its docstring does not name.

    A function of one argument needs no more than a summary; another may point to one with the same arguments.
    """
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    names = [each.arg for each in every if each.arg not in ("self", "cls")]
    text = ast.get_docstring(function) or ""
    if not text:
        return ["(no docstring)"]
    if len(names) == 1 or "arguments are those of" in text:
        return []
    return [name for name in names if not re.search(rf"\b{name}\b", text)]


OFFERED = {
    f"{face.parent.name}.{name}": function
    for face in FACES
    for part, node in offered(face)
    for name, function in functions(part, node)
}


@pytest.mark.parametrize("name", OFFERED)
def test_a_docstring_names_the_arguments(name):
    assert unnamed(OFFERED[name]) == []


def test_the_test_can_fail_and_sees_what_users_call():
    sources = ("def f(a, *, b):\n  'Adds a to ab.'", "def f(): 0", "class C:\n  def m(self, x, y):\n    'X.'")
    nodes = [ast.parse(source).body[0] for source in sources]
    found = [unnamed(function) for node in nodes for _, function in functions("n", node)]
    assert found == [["b"], ["(no docstring)"], ["x", "y"]]
    called = {"memory.make_memory", "memory.nearest", "envs.register_env", "llm.TextMemory.find", "runs.load"}
    assert called <= OFFERED.keys()
