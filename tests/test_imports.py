"""What may import what, and what no module of the package may do. Read from the source, not run."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import memjax.memory

PACKAGE = Path(__file__).parents[1] / "memjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# A part may import itself and these.
BELOW = {
    "__init__": set(),
    "types": set(),
    "machine": set(),
    "text": {"types"},
    "schema": {"types"},
    "config_file": {"types", "schema", "text"},
    "runs": {"types", "text", "machine"},
    "memory": {"types", "schema", "machine"},
    "networks": {"types", "schema", "memory"},
    "ops": {"types", "schema", "memory"},
    "agents": {"types", "schema", "memory", "networks", "ops"},
    "envs": {"types", "schema"},
    "data": {"types", "schema", "machine", "text"},
    "training": {
        *("types", "schema", "text", "machine", "memory", "networks", "ops", "agents", "envs", "data"),
        "runs",
    },
    "llm": {"types", "schema", "text", "config_file", "memory", "agents", "runs"},
    "configs": {"types", "schema", "agents"},
    "commands": {
        *("types", "schema", "text", "config_file", "memory", "networks", "ops", "agents", "envs", "data"),
        *("runs", "training", "llm", "configs"),
    },
    "cli": {"types", "config_file", "commands"},
    "__main__": {"cli"},
}

# Slow or optional: imported by their adapters alone, and not at the top of the package.
HEAVY = {"matplotlib", "envpool", "tensorboardX", "gymnax", "orbax", "h5py", "minari", "openai"}
HEAVY |= {
    "xminigrid",
    "textworld",
    "alfworld",
    "pymysql",
    "wordllama",
    "sentence_transformers",
    "pandas",
    "wandb",
    "inspect_ai",
}

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_ATTRIBUTES = {"yaml.load", "yaml.unsafe_load", "torch.load", "os.system", "os.popen"}


def part_of(path: Path) -> str:
    """The part of the package a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(source: str) -> list[str]:
    """Full names of everything `source` imports, wherever the import stands."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def upward(part: str, names: list[str]) -> list[str]:
    """Those of `names` that lie in a part which `part` may not import."""
    allowed = BELOW[part] | {part, "__version__"}
    ours = [name for name in names if name.split(".")[0] == "memjax"]
    return [name for name in ours if "." in name and name.split(".")[1] not in allowed]


def offences(source: str) -> list[str]:
    """What in `source` could run code out of data, or a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found += _call_offences(node)
    found += [name for name in imports_of(source) if name.split(".")[0] in FORBIDDEN_MODULES]
    return found


def _call_offences(node: ast.Call) -> list[str]:
    found = []
    if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
        found.append(node.func.id)
    called = ast.unparse(node.func)
    if called in FORBIDDEN_ATTRIBUTES:
        found.append(called)
    for keyword in node.keywords:
        is_false = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in ("shell", "allow_pickle") and not is_false:
            found.append(keyword.arg)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    assert upward(part_of(path), imports_of(path.read_text())) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_loads_code_or_calls_a_shell(path):
    assert offences(path.read_text()) == []


def circles(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, wherever the imports stand."""
    left = dict(graph)
    while True:
        # A module none of whose imports is left, or that none of those left imports, lies on no circle.
        needed = set().union(*left.values()) if left else set()
        free = [name for name, below in left.items() if not below & left.keys() or name not in needed]
        if not free:
            return sorted(left)
        left = {name: below for name, below in left.items() if name not in free}


def module_graph() -> dict[str, set[str]]:
    """Every module of the package, and those that it imports."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    graph = {}
    for name, path in names.items():
        found = {_module(each, names) for each in imports_of(path.read_text())}
        graph[name] = found - {None, name, "memjax"}
    return graph


def _module(name: str, known) -> str | None:
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def test_no_modules_import_each_other_in_a_circle():
    assert circles(module_graph()) == []


def test_the_circle_test_can_fail():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert len(module_graph()) > 100


def behind_the_face(names: list[str]) -> list[str]:
    """Those of `names` that lie in `memjax.memory` and are not among what it offers."""
    inside = [name for name in names if name.startswith("memjax.memory.")]
    return [name for name in inside if name.removeprefix("memjax.memory.") not in memjax.memory.__all__]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_other_parts_import_what_the_memory_offers_and_nothing_behind_it(path):
    if part_of(path) != "memory":
        assert behind_the_face(imports_of(path.read_text())) == []


def test_the_face_test_can_fail():
    source = "from memjax.memory import budget, nearest\nfrom memjax.memory.search.nearest import nearest"
    assert behind_the_face(imports_of(source)) == [
        "memjax.memory.budget",
        "memjax.memory.search.nearest.nearest",
    ]
    assert sorted(memjax.memory.__all__) == sorted(set(memjax.memory.__all__))
    assert all(hasattr(memjax.memory, name) for name in memjax.memory.__all__)


WALL_CLOCK = {  # written for people to read, and a date that a server asks to wait for
    "runs/metrics.py",
    "runs/workdir.py",
    "runs/tensorboard.py",
    "llm/clients/retry.py",
}


def test_the_time_of_day_decides_nothing():
    """A clock may go backwards: what waits, times or orders something asks a monotonic one."""
    words = re.compile(
        r"\btime\.time\b|\bdatetime\.(now|utcnow|today)\b|st_[mc]time|getmtime|time\.localtime"
    )
    found = {str(path.relative_to(PACKAGE)) for path in FILES if words.search(path.read_text())}
    assert found == WALL_CLOCK


def test_no_two_files_of_tests_have_one_name():
    # pytest imports them by it: of two in one process it cannot collect the second.
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} <= set(BELOW)


def test_the_directions_have_no_cycle():
    done: set[str] = set()
    while len(done) < len(BELOW):
        ready = {part for part, below in BELOW.items() if part not in done and below <= done}
        assert ready, f"a cycle among {set(BELOW) - done}"
        done |= ready


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "eval('1')",
        "exec(open('x').read())",
        "__import__('x')",
        "np.load(f, allow_pickle=True)",
        "np.load(f, allow_pickle=flag)",
        "subprocess.run(c, shell=True)",
        "yaml.load(f)",
        "torch.load(f)",
        "os.system('x')",
    ],
)
def test_the_gate_can_fail(source):
    assert offences(source)


def test_the_direction_test_can_fail():
    assert upward("memory", ["memjax.agents.online.ppo", "jax", "memjax.types.Array"]) == [
        "memjax.agents.online.ppo"
    ]
    assert upward("types", imports_of("def f():\n    from memjax.memory import bank"))


def test_importing_loads_nothing_heavy_and_touches_no_device():
    """One process for all: what none of them loads together, none loads alone."""
    modules = ["memjax", "memjax.cli", "memjax.types", "memjax.memory", "memjax.envs"]
    program = (
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    heavy = sorted({HEAVY!r} & {{name.split('.')[0] for name in sys.modules}})\n"
        "    bridge = sys.modules.get('jax._src.xla_bridge')\n"
        "    print(module, heavy, bool(bridge and bridge._backends))\n"
        "importlib.import_module(module).spec_of('gymnax/CartPole-v1', {})\n"
        "print(sorted({'gymnax', 'seaborn', 'pandas', 'matplotlib.pyplot'} & set(sys.modules)))\n"
        "print(sys.modules['gymnax.environments.misc.rooms'].plt.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, for_an_environment, for_pictures = run.stdout.splitlines()
    assert lines == [f"{module} [] False" for module in modules]
    assert (for_an_environment, for_pictures) == ("['gymnax']", "matplotlib.pyplot")
    assert run.stderr == ""
