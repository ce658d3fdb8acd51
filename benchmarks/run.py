"""python -m benchmarks.run --list | --case NAME [--case NAME] [--peers] [--quick] [--out DIR] | --readme"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import cases
from benchmarks.harness import CASES, Options, Result, environment, in_huge_pages, prepare_process

HERE = Path(__file__).parent


def main(arguments: list[str] | None = None) -> int:
    """Runs what was asked for; 2 on a name that is not known."""
    prepare_process()
    options = _parser().parse_args(arguments)
    unknown, missing = _load(options.case)
    if unknown:
        print(
            f"--case: expected one of {', '.join(sorted(CASES))}{missing}, got {', '.join(unknown)}",
            file=sys.stderr,
        )
        return 2
    if options.list:
        print("\n".join(f"{name}: {_summary(name)}" for name in sorted(CASES)))
    for name in options.case:
        print(run(name, Options(options.peers, options.quick, options.seed), _folder(options)))
    if options.readme:
        from benchmarks import report

        (HERE / "README.md").write_text(report.readme(_folder(options) or HERE / "results"))
    return 0


def run(name: str, options: Options, out: Path | None) -> str:
    """Runs one case, writes its file into `out`, unless that is None, and returns its table."""
    from benchmarks import report

    result = {"case": name, "summary": _summary(name), "seed": options.seed, "quick": options.quick}
    result |= environment() | _content(CASES[name](options))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / file_name(name, result["platform"])).write_text(json.dumps(result, indent=1) + "\n")
    return report.table(result)


def file_name(name: str, platform: str) -> str:
    """memory_write.json, memory_q_update.json, retrieval_gpu.json: by area, then by platform if not a CPU."""
    area = CASES[name].__module__.rsplit(".", 1)[-1]
    stem = name if name.startswith(area) else f"{area}_{name}"
    return f"{stem}.json" if platform == "cpu" else f"{stem}_{platform}.json"


def _content(returned: Any) -> dict[str, Any]:
    """What a case returned, as it stands in the file."""
    if isinstance(returned, Result):
        sections = [section._asdict() for section in returned.sections]
        return {"ceilings": returned.ceilings, "peers": returned.peers, "sections": sections}
    return {"figures": [figure._asdict() for figure in returned]}


def _load(names: list[str]) -> tuple[list[str], str]:
    """Names that no loaded case has, and which modules of cases need something that is not installed."""
    failed = cases.load()
    missing = "".join(f" ({module}: needs {what})" for module, what in failed.items())
    return sorted(set(names) - set(CASES)), missing


def _folder(options: argparse.Namespace) -> Path | None:
    """A quick run is no measurement, so it writes only where it is told to."""
    return options.out or (None if options.quick else HERE / "results")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("--case", action="append", default=[], metavar="NAME", help="run this; repeatable")
    parser.add_argument("--peers", action="store_true", help="time the other libraries that are installed")
    parser.add_argument("--quick", action="store_true", help="small shapes; writes only with --out")
    parser.add_argument("--seed", type=int, default=0, help="of the numbers searched")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where results go, default results/")
    parser.add_argument("--readme", action="store_true", help="generate README.md from the results")
    return parser


def _summary(name: str) -> str:
    return (CASES[name].__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    in_huge_pages("benchmarks.run")
    sys.exit(main())
