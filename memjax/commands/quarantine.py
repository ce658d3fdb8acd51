"""`memjax quarantine`: hides memories of a language-model agent and what was built on them; in the log."""

from collections.abc import Sequence
from pathlib import Path

from memjax.llm.run.log import open_log
from memjax.llm.run.state import LOG_FILE
from memjax.runs.workdir import locked, no_run


def run(workdir: Path, rows: Sequence[int], *, hide: bool = True, why: str = "") -> int:
    """Decides on the memories `rows` and their descendants, and prints which these are.

    Returns the exit code. Raises ConfigError where there is no such run or memory, or where a process runs.
    """
    if not (Path(workdir) / LOG_FILE).is_file():
        raise no_run(workdir, f"a directory of `memjax remember`, with {LOG_FILE}")
    with locked(Path(workdir)):
        log = open_log(Path(workdir) / LOG_FILE, read_only=False)
        try:
            log.experiences(rows)
            found = log.built_on(rows)
            log.decide(found, hide, why)
            chosen = log.experiences(found)
        finally:
            log.close()
    print(f"{'hidden' if hide else 'shown again'}: {len(chosen)} memories")
    for x in chosen:
        kind = "named" if x.row in rows else f"built on {', '.join(map(str, x.provenance['built_on']))}"
        print(f"  {x.row}  {kind}: {' '.join(x.intent.split())[:80]}")
    return 0
