"""Tasks that are solved by a program: extracts it from a reply, runs its tests, and says why they fail."""

import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from memjax.llm.sandbox.sandbox import Limits, Sandbox
from memjax.llm.tasks.dialogue import Dialogue, shortened
from memjax.llm.types import Ask, Outcome

LIMITS = Limits(wall_s=120.0, cpu_s=60)
_FEEDBACK = 700  # the most characters of a failure in the feedback
_SYSTEM = (
    "You write Python. Answer with one block of code between ``` marks that holds the whole program, with "
    "its imports and the function named as in the request. No docstrings, comments, examples, input or tests."
)

# Runs together with the program. The result is printed after a random word that the program cannot guess, so
# that a program which ends early, or prints something that looks like a result, does not pass.
_RUNNER = """
import json, sys, traceback, unittest

sys.path.insert(0, ".")  # the safe way of starting leaves it out
word, kind, entry = sys.argv[1:4]
sys.argv = sys.argv[:1]


def tell(passed, failure=""):
    sys.stdout.flush()
    sys.__stdout__.write("\\n" + word + json.dumps({"passed": passed, "failure": failure[-4000:]}) + "\\n")
    sys.__stdout__.flush()


def described(error):
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.line for frame in frames if frame.filename.endswith("__test__.py") and frame.line]
    message = "".join(traceback.format_exception_only(type(error), error)).strip()
    return ("in " + lines[-1] + "\\n" if lines else "") + message


def run():
    import __test__

    if kind == "asserts":
        return tell(True)
    if kind == "check":
        __test__.check(getattr(__test__, entry))
        return tell(True)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(__test__.TestCases)
    result = unittest.TestResult()
    suite.run(result)
    bad = result.failures + result.errors
    if not bad and not result.testsRun:
        return tell(False, "there were no tests to run")
    tell(not bad, "\\n".join([bad[0][0].id().split(".")[-1], bad[0][1]]) if bad else "")


try:
    run()
except BaseException as error:
    tell(False, described(error))
"""


class Verdict(NamedTuple):
    """The result of a program's tests."""

    passed: bool
    failure: str  # "" where it passed


@dataclass(eq=False)
class CodeTask:
    """One program to write, with its tests."""

    id: str
    intent: str
    prompt: str  # the request to the model
    tests: str  # Python source, put after the program
    kind: str  # what the tests define; "unittest": a class TestCases, "check": a function check(candidate)
    # "asserts": nothing, they are assertions that run by themselves
    entry: str  # name of the function to write
    solution: str  # a whole program that is correct
    complete: Callable[[str], str] = field(repr=False)  # makes the whole program of the code in a reply
    limits: Limits = LIMITS
    allow_weak_sandbox: bool = False  # run programs even where the kernel gives no namespaces

    def attempt(self, ask: Ask, memories: str) -> Outcome:
        """Asks once and runs the tests on the program in the reply, as `Task.attempt`."""
        dialogue = Dialogue(ask, _SYSTEM, memories)
        reply = dialogue.say(self.prompt)
        program = extract(reply)
        verdict = judge(self, self.complete(program))
        feedback = shortened(verdict.failure, _FEEDBACK)
        dialogue.note("all tests passed" if verdict.passed else f"tests failed: {feedback}")
        return dialogue.outcome(self.id, verdict.passed, feedback, solution=program.strip())


def extract(reply: str) -> str:
    """The first fenced block of a reply, or all of the reply where it has none. A block may lack its end."""
    block = re.search(r"```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", reply, re.DOTALL | re.MULTILINE)
    return block[1] if block else reply


def judge(task: CodeTask, program: str) -> Verdict:
    """Runs the tests of a task on a program, in a sandbox that is made for this run.

    Args:
      task: has the tests.
      program: Python source.

    Returns:
      Whether all tests passed, and else the failure of the first that did not.

    Raises:
      ConfigError: programs cannot be isolated on this machine.
      SandboxError: the sandbox itself failed.
    """
    word = secrets.token_hex(16)
    files = {"__test__.py": f"{program}\n\n{task.tests}\n"}
    try:
        files["__test__.py"].encode()
    except UnicodeEncodeError:  # a lone surrogate
        return Verdict(False, "the program is no text in UTF-8")
    with Sandbox(task.limits, allow_weak=task.allow_weak_sandbox) as sandbox:
        completed = sandbox.python(_RUNNER, argv=[word, task.kind, task.entry], files=files)
    told = [line[len(word) :] for line in completed.out.splitlines() if line.startswith(word)]
    if told:
        result = json.loads(told[-1])
        return Verdict(result["passed"] is True, trimmed(result["failure"]))
    if completed.timed_out:
        return Verdict(False, f"did not finish within {task.limits.wall_s:g} seconds")
    return Verdict(
        False, trimmed(completed.err) or f"the program ended early, with exit status {completed.code}"
    )


def trimmed(failure: str) -> str:
    """A failure whose traceback keeps only the lines of the program and its tests."""
    kept: list[str] = []
    ours = True
    for line in failure.strip().splitlines():
        if line.startswith("  File "):
            ours = "__test__.py" in line
            continue
        if line.startswith("    ") and not ours:
            continue
        if set(line.strip()) <= {"^", "~"} or line.startswith("Traceback "):
            continue
        kept.append(line)
    return "\n".join(kept).strip()
