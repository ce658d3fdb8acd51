"""The pages of the site that no file under docs/ holds: those of other folders, and those that are generated.

mkdocs calls `on_config` and `on_files`. Every page keeps the path that its file has in the repository, so
that links between files lead to the same places here.
"""

import argparse
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from memjax import cli
from memjax.commands.configs import description
from memjax.config_file import shipped_configs

ROOT = Path(__file__).parents[1]
# What pages link to, beside docs/ itself.
SHOWN = (
    "*.md",
    "CITATION.cff",
    "LICENSE",
    "benchmarks/README.md",
    "benchmarks/results/*",
    "examples/*",
    "experiments/campaigns/*",
    "experiments/launch/*",
    "experiments/results/**/*",
)
# Public modules and functions, in the order of a reader who has a memory first and runs later.
API = {
    "memory": ("A memory", ("memjax.memory", "memjax.memory.interface")),
    "types": ("Types and errors", ("memjax.types",)),
    "environments": (
        "Environments",
        ("memjax.envs", "memjax.envs.episodes", "memjax.envs.gymnax_adapter", "memjax.envs.renderers"),
    ),
    "agents": (
        "Agents",
        (
            "memjax.agents",
            "memjax.agents.online.ppo.make_ppo",
            "memjax.agents.online.sil.make_sil",
            "memjax.agents.adamemento.agent.make_adamemento",
            "memjax.agents.offline.baselines.make_cloning",
            "memjax.agents.offline.baselines.make_nearest",
            "memjax.agents.reframe.advised.make_any_reframe",
            "memjax.agents.reframe.plug_in",
            "memjax.agents.memrl.agent",
            "memjax.agents.memrl.interface",
        ),
    ),
    "parts": (
        "Parts of agents",
        (
            "memjax.ops.returns",
            "memjax.ops.losses",
            "memjax.ops.intrinsic",
            "memjax.ops.episodic",
            "memjax.ops.statistics",
        ),
    ),
    "data": ("Recorded data", ("memjax.data.loading", "memjax.data.trajectories", "memjax.data.scores")),
    "runs": (
        "Configs and runs",
        (
            "memjax.config_file",
            "memjax.schema",
            "memjax.training.config",
            "memjax.training.sinks",
            "memjax.runs",
        ),
    ),
    "llm": (
        "Language models",
        ("memjax.llm.text_memory", "memjax.llm.types", "memjax.llm.tasks.loading", "memjax.llm.tasks.own"),
    ),
}


def on_config(config: Any) -> Any:
    """Puts the pages of the API into the navigation."""
    for section in config.nav:
        for entry in next(iter(section.values())) if isinstance(section, dict) else ():
            if entry == {"API": "api"}:
                entry["API"] = [f"docs/api/{name}.md" for name in API]
    return config


def on_files(files: Files, config: Any) -> Files:
    """All files of the site, each at its path in the repository."""
    kept = [file for file in files if file.src_dir != config.docs_dir]
    names = [Path("docs") / file.src_uri for file in files if file.src_dir == config.docs_dir]
    names += [path.relative_to(ROOT) for pattern in SHOWN for path in sorted(ROOT.glob(pattern))]
    for name in names:
        path = ROOT / name
        if path.is_file() and path.suffix != ".pyc" and name != Path(__file__).relative_to(ROOT):
            kept.append(File.generated(config, name.as_posix(), abs_src_path=str(path)))
    for name, text in generated().items():
        kept.append(File.generated(config, name, content=text))
    return Files(kept)


def generated() -> dict[str, str]:
    """Path and text of each page that is made from the code."""
    pages = {"docs/configs.md": _configs(), "docs/commands.md": _commands()}
    for name, (title, parts) in API.items():
        text = [f"## `{part}`\n\n::: {part}\n    options: {{show_root_heading: false}}\n" for part in parts]
        pages[f"docs/api/{name}.md"] = "\n".join([f"# {title}\n", *text])
    return pages


def _configs() -> str:
    text = [
        "# Configs\n",
        "Every shipped config with all its fields, their values and meanings, and its variants: what",
        "`memjax configs NAME` prints. `--config=NAME:VARIANT` picks a variant, and",
        "`--config.FIELD=VALUE` sets a field.\n",
    ]
    for name in shipped_configs():
        text += [f"## {name}\n", "```python", description(name), "```\n"]
    return "\n".join(text)


def _commands() -> str:
    parser = cli._parser()
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    text = ["# Commands\n", "What `memjax COMMAND --help` prints.\n"]
    for name, command in commands.choices.items():
        text += [f"## memjax {name}\n", "```text", command.format_help().rstrip(), "```\n"]
    return "\n".join(text)
