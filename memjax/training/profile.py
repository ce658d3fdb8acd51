"""Where the time of an iteration goes: a trace of compiled chunks, its operations by part of the program.

Parts are the names that `jax.named_scope` gives operations: "environment", "policy", "learning" and "data" in
this package, `memory.NAME` for the functions of a memory, which count for no other part.
"""

import math
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax

from memjax.types import PyTree

SEARCHES = ("retrieve", "sample", "gather")  # functions of a memory that read; the others write
PARTS = ("environment", "policy", "memory search", "memory write", "data", "learning", "other")
_INSTRUCTION = re.compile(r'^ *(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]*)"')
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) .*\{$")
_FUSION = re.compile(r"^ *(?:ROOT )?%?([\w.-]+) = .*calls=%?([\w.-]+)")
_SCOPE = re.compile(r"(?:^|[/(])(memory\.\w+|environment|policy|data|learning)(?=[/)]|$)")
_TRACES = "*.xplane.pb"
# What devices exchange. One that is split in two is counted where it is done.
_COLLECTIVE = re.compile(
    r" = (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)(?:-done)?\("
)
_ARRAY = re.compile(r"([a-z]+)(\d*)\w*\[([\d,]*)\]")
_CALLED = re.compile(r"(?:body|calls|to_apply|\w+_computation)=%?([\w.-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONTAINER = re.compile(r"(while|call|closed_call|conditional)(\.|$)")  # its operations are events too


class Profile(NamedTuple):
    """Of one iteration of all seeds together."""

    compile_seconds: float
    seconds: float  # wall time, median over the chunks
    parts: dict[str, float]  # the share of each part in the time of traced operations; sums to 1
    product_flops: float  # of matrix products and convolutions, loops counted as often as they run
    flops: float  # XLA's own count of the chunk, which counts the body of each loop once
    bytes: float  # likewise, read and written
    temporary_bytes: int  # that the chunk needs beside its state
    exchanged: dict[str, float]  # bytes that each kind of collective leaves on a device; {} on one device


def profile(run: Any, arguments: tuple[Any, ...], folder: Path, *, iterations: int, chunks: int) -> Profile:
    """Compiles a chunk, times it, and traces it once.

    Args:
      run: the jitted chunk: (state, *others) -> (state, metrics), the state donated.
      arguments: of it.
      folder: of the trace, which TensorBoard's profile plugin and xprof read.
      iterations: of a chunk.
      chunks: to time.

    Returns:
      The profile of one iteration.
    """
    state, *others = arguments
    flops = product_flops(jax.make_jaxpr(run)(*arguments).jaxpr)
    began = time.perf_counter()
    compiled = run.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - began
    state, _ = jax.block_until_ready(compiled(state, *others))  # the first one warms up
    seconds = []
    for _ in range(chunks):
        began = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, *others))
        seconds.append(time.perf_counter() - began)
    before = set(folder.rglob(_TRACES))
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(compiled(state, *others))
    cost, memory, text = compiled.cost_analysis() or {}, compiled.memory_analysis(), compiled.as_text()
    return Profile(
        compile_seconds=compile_seconds,
        seconds=statistics.median(seconds) / iterations,
        parts=shares(traced(folder, before), parts_of(text)),
        product_flops=flops / iterations,
        flops=float(cost.get("flops", math.nan)),
        bytes=float(cost.get("bytes accessed", math.nan)),
        temporary_bytes=0 if memory is None else memory.temp_size_in_bytes,
        exchanged={name: size / iterations for name, size in exchanged(text).items()},
    )


class HostProfile(NamedTuple):
    """Of one iteration of a run over envpool, in seconds. Actor and learner work side by side."""

    compile_seconds: float  # of the first iteration: acting, learning and the start of the environments too
    seconds: float  # wall time, mean over the iterations
    environment: float  # the actor waits for the environments
    policy: float  # it acts
    learning: float  # the update, and all that is not waiting
    waiting: float  # the learner waits for a rollout


def profile_host(program: Any, folder: Path, *, chunks: int) -> HostProfile:
    """Times the rollouts and updates of a run over envpool, and traces the last chunk.

    Args:
      program: a `Sebulba`.
      folder: of the trace.
      chunks: to time, after a first one.

    Returns:
      The profile of one iteration.
    """
    began, state = time.perf_counter(), program.init()
    state, _ = program.chunk(state)
    compile_seconds = time.perf_counter() - began
    acting, waited, began = dict(program.acting_seconds()), program.waited, time.perf_counter()
    for _ in range(chunks):
        state, _ = program.chunk(state)
    count = chunks * program.config.run.log_every
    seconds, waiting = (time.perf_counter() - began) / count, (program.waited - waited) / count
    spent = {name: (x - acting[name]) / count for name, x in program.acting_seconds().items()}
    with jax.profiler.trace(str(folder)):
        program.chunk(state)
    return HostProfile(
        compile_seconds, seconds, **spent, learning=max(0.0, seconds - waiting), waiting=waiting
    )


def part_of(op_name: str) -> str:
    """The part that an operation belongs to, by the name that JAX gave it."""
    scopes = _SCOPE.findall(op_name)
    memories = [scope.partition(".")[2] for scope in scopes if scope.startswith("memory.")]
    if memories:
        return "memory search" if memories[-1] in SEARCHES else "memory write"
    return scopes[-1] if scopes else "other"


def parts_of(program: str) -> dict[str, str]:
    """The part of each instruction of a compiled program, given as text.

    A fusion without a name of its own is of the part that most of its instructions belong to.
    """
    found: dict[str, str] = {}
    inside: dict[str, Counter[str]] = {}
    unnamed: list[tuple[str, str]] = []  # fusions, and what they compute
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            counts = inside.setdefault(header[1], Counter())
        elif named := _INSTRUCTION.match(line):
            found[named[1]] = part_of(named[2])
            counts[found[named[1]]] += 1
        elif fusion := _FUSION.match(line):
            unnamed.append((fusion[1], fusion[2]))
    for name, computation in unnamed:
        known = inside.get(computation)
        found[name] = known.most_common(1)[0][0] if known else "other"
    return found


def traced(folder: Path, before: Collection[Path] = ()) -> Iterable[tuple[str, float]]:
    """(instruction, ns) of every operation in the trace of a folder that is not one of those `before`."""
    paths = sorted(folder.rglob(_TRACES), key=lambda path: (path not in before, path.name, path))
    for plane in jax.profiler.ProfileData.from_file(str(paths[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None and not _CONTAINER.match(str(name)):
                    yield str(name), event.duration_ns


def shares(events: Iterable[tuple[str, float]], parts: dict[str, str]) -> dict[str, float]:
    """The share of each part in the time of all events; {} where there is none."""
    totals: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    for name, duration in events:
        totals[parts.get(name, "other")] += duration
    whole = sum(totals.values())
    return {part: totals[part] / whole for part in PARTS if totals[part]} if whole else {}


def exchanged(program: str) -> dict[str, float]:
    """Bytes that the collectives of a compiled program, given as text, leave on a device, by their kind.

    Those of a loop count as often as it runs, where the compiler knows that, those of all branches once.
    """
    own: dict[str, Counter[str]] = {}
    calls: dict[str, list[tuple[str, int]]] = {}  # what each computation runs, and how often
    name = main = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[1]
            main, own[name], calls[name] = (name if line.startswith("ENTRY") else main), Counter(), []
        elif collective := _COLLECTIVE.search(line):
            own[name][collective[2]] += sum(map(_bytes, _ARRAY.findall(collective[1])))
        elif name and " = " in line:
            trips = int(found[1]) if (found := _TRIPS.search(line)) else 1
            called = ",".join("".join(each) for each in _CALLED.findall(line))
            calls[name] += [(each.strip(" %"), trips) for each in called.split(",") if each]

    @cache
    def total(name: str) -> Counter[str]:
        sizes = Counter(own.get(name, {}))
        for callee, trips in calls.get(name, ()):
            sizes.update({kind: trips * size for kind, size in total(callee).items()})
        return sizes

    return {kind: float(size) for kind, size in sorted(total(main).items())}


def _bytes(array: tuple[str, str, str]) -> int:
    """Of an array as a program's text names it: ("f", "32", "8,4")."""
    _, bits, shape = array
    return math.prod(int(n) for n in shape.split(",") if n) * max(1, int(bits or 8) // 8)


def product_flops(program: Any) -> float:
    """Operations of the matrix products and convolutions of a jaxpr; a multiply-add counts as two.

    An upper bound: XLA leaves out what nothing uses. A `scan` counts as often as it runs, a `while` once, of
    the branches of a `cond` the dearest.
    """
    total = 0.0
    for equation in program.eqns:
        name, inner = equation.primitive.name, [product_flops(each) for each in _inner(equation.params)]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            zeros = math.prod(equation.params["lhs_dilation"])  # of a dilated input, most are skipped
            total += 2.0 * math.prod(out) * math.prod(kernel) / outputs / zeros
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        else:
            total += max(inner, default=0.0) if name == "cond" else sum(inner)
    return total


def _inner(params: dict[str, Any]) -> list[Any]:
    """The jaxprs within the parameters of an equation."""
    is_program: Callable[[PyTree], bool] = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")  # noqa: E731
    leaves = jax.tree.leaves(params, is_leaf=is_program)
    return [getattr(x, "jaxpr", x) for x in leaves if is_program(x)]
