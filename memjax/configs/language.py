"""MemRL: a language-model agent that learns at run time which of its memories to recall.

Source: MemRL (arXiv 2601.03192, version 2), table 8 for the preset `paper`; the authors' repository
MemTensor/MemRL (commit 7c3beba) for `code`, batches, epochs, limits and models. Marks: (paper), (code), else
ours. docs/memrl.md says what the presets differ in and what the source leaves open.

Expected, the source's last success / solved at least once, MemRL against RAG and no memory (its models, its
embedder, 10 epochs): lifelong_db .960/.972, .914/.916, .860; lifelong_os .788/.804, .690/.700, .674;
bigcodebench .595/.627, .475/.483, .485; alfworld .949/.981, .887/.930, .777; hle .570/.606, .430/.475, .357.
HumanEval is not among them. What we measured ourselves is under results/, with the model's name.

Cost: of a full run the endpoint's; set `budget`, which is a hard stop. `local` is for a model of one or two
billion parameters on two cores: at 30 generated tokens a second and four requests at a time 5 to 20 minutes
for a mode and benchmark, at a third of that speed and one request an hour or two. `smoke` takes minutes.
Data: benchmark.folder, as each loader in memjax/llm/tasks describes it.

Variants, joined by "+" with `local` and `smoke` last:
  benchmark  lifelong_db (default) lifelong_os bigcodebench humaneval alfworld hle, own (your JSON lines),
             inspect (a task of the package inspect-ai: memjax/llm/tasks/inspect_tasks.py)
  mode       memrl (default) memp rag self_rag mem0 long_context sharing none reflexion pass_at_k
  content    summaries (default; rag: records) records: what is written down, to compare modes on the same
  preset     paper (default) code neutral (of no benchmark; that of own and inspect)
  embedder   (default: an endpoint's) ngrams minilm wordllama
  and        transfer (held-out tasks after the last epoch, memory frozen), local, smoke

  memjax remember --config=language:lifelong_db --workdir=runs/language/db
  memjax remember --config=language:alfworld+rag+transfer --workdir=runs/language/rag
  python experiments/launch/local_model.py MODEL.gguf     # in another shell
  for mode in memrl rag none; do memjax remember --workdir=runs/language/db_$mode \\
      --config=language:lifelong_db+$mode+local; done
  python -m experiments.language_results runs/language/db_* --out experiments/results/language_db
"""

import dataclasses
from functools import partial

from ml_collections import ConfigDict

from memjax.agents.memrl.config import preset
from memjax.configs import base

# As memjax.llm.run.config has them, which a config file may not import.
MODES = ("memrl", "memp", "rag", "self_rag", "mem0", "long_context", "sharing")
MODES += ("none", "reflexion", "pass_at_k")
# The source's name of a benchmark; HumanEval is ours and takes the other programming benchmark's values.
SOURCE = {
    "lifelong_db": "db",
    "lifelong_os": "os",
    "bigcodebench": "bigcodebench",
    "humaneval": "bigcodebench",
    "alfworld": "alfworld",
    "hle": "hle",
}
OTHERS = ("own", "inspect")  # tasks of the user's
# Model (paper), tokens of a reply (code), tasks of a minibatch (code), room for all attempts of 10 epochs.
SIZES = {
    "lifelong_db": ("gpt-4o-mini", 10_240, 5, 4_096),
    "lifelong_os": ("gpt-4o-mini", 10_240, 5, 4_096),
    "bigcodebench": ("gpt-4o", 12_800, 25, 8_192),
    "humaneval": ("gpt-4o", 12_800, 25, 2_048),
    "alfworld": ("gpt-5-mini", 4_096, 32, 36_864),
    "hle": ("gemini-3-pro", 65_536, 32, 25_600),
    "own": ("gpt-4o-mini", 4_096, 8, 4_096),
    "inspect": ("gpt-4o-mini", 4_096, 8, 4_096),
}
OPTIONS = {
    "lifelong_db": {"turns": 15, "server": ""},  # (code); "host:port" of a MariaDB, or SQLite
    "lifelong_os": {"turns": 15},  # (code)
    "bigcodebench": {"checked": None},  # a JSON file: keep only tasks whose own solution passes here
    "humaneval": {"held_out": 0.0},
    "alfworld": {
        "train": "train",
        "held_out": "valid_seen",
        "kinds": "",  # such as "pick_and_place_simple"; "": all
        "steps": 30,  # (code)
        "examples": "react",  # (code); "act" for commands without thoughts, "" for none
        "show_commands": "always",  # or "invalid", after a command that does nothing, or "never"
        "choose": False,  # each reply one of the commands that can help: tasks/alfworld_choices.py
        "last": None,  # with `choose`: begin where so many commands of the walkthrough are left
        "demonstrate": False,  # with `choose`: memories of won games are turns of the conversation
    },
    "hle": {"held_out": 0.0, "judge": True},  # (code) graded by a model; here the run's own
    "own": {"held_out": 0.0, "reward": "", "solved": 1.0},  # memjax/llm/tasks/own.py
    "inspect": {  # memjax/llm/tasks/inspect_tasks.py
        "held_out": 0.0,
        "task": "",  # name of the function that gives it, in a module of --import
        "arguments": "",  # of that function, as a JSON object
        "solved": 1.0,
        "explain": False,  # say and store the scorer's explanation of a failure
    },
}
FOLDERS = {"lifelong_db": "lifelongagentbench", "lifelong_os": "lifelongagentbench"}
DATA = "runs/data/{name}"
# Hashed n-grams of (at most 300) training tasks: mean and deviation of the pairwise similarities, and their
# 80 % quantile, which is how the paper chooses its threshold. HLE: the source's, as its data are not here.
NGRAMS = {
    "lifelong_db": (0.228, 0.107, 0.315),
    "lifelong_os": (0.245, 0.113, 0.332),
    "bigcodebench": (0.415, 0.076, 0.475),
    "humaneval": (0.199, 0.093, 0.277),
    "alfworld": (0.221, 0.175, 0.338),  # of valid_seen
    "hle": (0.186, 0.094, 0.25),
    "own": (0.2, 0.1, 0.3),  # not measured: `--similarities` tells yours
    "inspect": (0.2, 0.1, 0.3),  # as well
}
LOCAL_OPTIONS = {
    "lifelong_db": {"turns": 6},
    "lifelong_os": {"turns": 6},
    "bigcodebench": {"checked": "runs/language/bigcodebench_passing.json"},
    "alfworld": {
        "train": "valid_seen",
        "held_out": "valid_unseen",
        "steps": 20,
        "examples": "act",
        "show_commands": "invalid",
    },
    "hle": {"judge": False},  # so small a model grades badly
}
LOCAL_MODEL = "qwen2.5-coder-1.5b-instruct-q4_k_m"  # for the results; a local server answers to any name


def get_config(variant: str = "") -> ConfigDict:
    """The config of a variant, parts of its name joined by "+"."""
    config = ConfigDict(
        {
            "experiment": "language",
            "benchmark": {
                "name": "lifelong_db",
                "folder": DATA.format(name="lifelongagentbench"),
                "limit": None,  # tasks of either split; None: all
                "seed": 0,  # of their draw
                "options": {},
                "judge_max_tokens": 64,  # of the verdict (HLE); more for a model that thinks first
                "judge_temperature": 0.0,
                "allow_weak_sandbox": False,  # run programs of a model even where they cannot be isolated
            },
            "language": {
                "mode": "memrl",
                "seed": 0,
                "epochs": 10,  # (paper)
                "batch": 5,
                "shuffle": False,
                "concurrency": 8,  # tasks in play
                "overlap": 0,  # (code)
                "transfer": False,
                "temperature": 0.0,  # (paper)
                "max_tokens": 10_240,
                "summary_temperature": 0.3,  # (code) of reflections; ours of plans as well
                "summary_max_tokens": 1_024,
                "summaries": True,  # rag: False, unless +summaries follows it
                "own_reflection": False,  # show a task that failed its own failure beside others' successes
                "content_chars": 8_000,
                "inject_chars": 12_000,  # the code: 2,000 for programs, named tokens, which holds one or two
                "reward_success": 1.0,
                "reward_failure": -1.0,
                "graded": False,  # True: the reward follows the score of a task, from 0 to 1
                "memory": {},
                "imported": {  # memories that are there before the first task: memjax/llm/run/imported.py
                    "file": "",
                    "limit": None,
                    "spoiled": 0.0,  # share of them that get the text of another one
                    "seed": 0,
                },
                "shards": 1,  # devices that the memory's slots are split over
                "save_every": 10,
                "give_up_after": 5,  # at most `batch`: an endpoint that is down costs the rest of one at most
            },
            "chat": {
                "endpoint": _endpoint("gpt-4o-mini"),
                "token_field": "max_tokens",
                "extra": {},
                "send_seed": True,  # False for servers that refuse the field
                "send_temperature": True,  # False for models that take their default alone
                # How the endpoint is told that a reply must be one of the texts that a task offers: "grammar"
                # (llama.cpp), "structured_outputs" (vLLM), "json_schema" (OpenAI); "": not at all.
                "choices": "",
            },
            "embed": {
                "kind": "openai",
                "dim": 3_072,  # (paper)
                "batch": 64,
                "endpoint": _endpoint("text-embedding-3-large"),  # (paper)
            },
            "store": {"mode": "cache", "path": "runs/language/store.sqlite"},
            "budget": {
                "tokens": 20_000_000,  # of prompts and replies, in all launches of a run
                "money": None,
                "prompt_price": 0.0,  # for a million tokens
                "completion_price": 0.0,
            },
        }
    )
    _benchmark(config, "lifelong_db")
    return base.apply(config, variant, VARIANTS)


def _endpoint(model: str) -> dict:
    return {
        "base_url": "https://api.openai.com/v1",
        "model": model,
        "key_env": "OPENAI_API_KEY",
        "timeout": 300.0,  # seconds
        "retries": 4,
        "backoff": 2.0,  # seconds, doubled
        "max_wait": 60.0,  # seconds
    }


def _benchmark(config: ConfigDict, name: str) -> None:
    """Which tasks are played, and the model and sizes of the source for them."""
    model, tokens, batch, capacity = SIZES[name]
    config.benchmark.name = name
    config.benchmark.folder = DATA.format(name=FOLDERS.get(name, name))
    config.benchmark.options = ConfigDict(OPTIONS[name])
    config.chat.endpoint.model = model
    # Models that think before they speak know this name of the limit alone.
    config.chat.token_field = "max_completion_tokens" if name == "alfworld" else "max_tokens"
    config.language.update(max_tokens=tokens, batch=batch)
    config.language.temperature = 0.6 if name == "hle" else 0.0  # (paper)
    config.language.graded = name in OTHERS
    _memory(config, _preset_of(config) if name in SOURCE else "neutral", capacity)


def _memory(config: ConfigDict, name: str, capacity: int) -> None:
    benchmark = "" if name == "neutral" else SOURCE.get(config.benchmark.name, "")
    memory = dataclasses.asdict(preset(name, benchmark, capacity=capacity))
    config.language.memory = ConfigDict(memory)
    zero = name == "code" and benchmark in ("os", "db")
    config.language.reward_failure = 0.0 if zero else -1.0  # (code) success 1 or 0


def _preset_of(config: ConfigDict) -> str:
    return "code" if config.language.memory.get("unit") == "buckets" else "paper"


def _preset(config: ConfigDict, name: str) -> None:
    """How memories are chosen: as the paper writes it, or as the authors' code does it."""
    _memory(config, name, config.language.memory.capacity)
    if config.embed.kind == "local":
        _ngrams(config)


def _mode(config: ConfigDict, mode: str) -> None:
    """What is remembered, and how it is chosen."""
    config.language.mode = mode
    config.language.summaries = mode != "rag"
    if mode == "pass_at_k" and not config.language.temperature:
        config.language.temperature = 0.7


def _summaries(config: ConfigDict, on: bool) -> None:
    """What is written: plan or reflection and record, or the record alone. The same for modes to compare."""
    config.language.summaries = on


def _ngrams(config: ConfigDict) -> None:
    """Needs no endpoint, package or network; knows words, no meanings."""
    mean, std, quantile = NGRAMS[config.benchmark.name]
    _embedder(config, "local", 384)
    if _preset_of(config) == "paper":
        config.language.memory.threshold = quantile
    else:
        config.language.memory.update(mean=mean, std=std)


def _embedder(config: ConfigDict, kind: str, dim: int) -> None:
    """A packaged model. The thresholds stay those of the source's embedder: `--similarities` tells yours."""
    config.embed.update(kind=kind, dim=dim)
    config.embed.endpoint = None


def _transfer(config: ConfigDict) -> None:
    """The authors' held-out tasks; a third of the others', which have no split."""
    config.language.transfer = True
    if config.benchmark.options.get("held_out") == 0.0:
        config.benchmark.options.held_out = 0.3


def _local(config: ConfigDict) -> None:
    """A small model on this machine: few tasks, short prompts whose beginning stays the same."""
    _ngrams(config)
    config.chat.endpoint.update(base_url="http://127.0.0.1:8080/v1", model=LOCAL_MODEL)
    config.chat.endpoint.update(timeout=900.0, retries=1)
    config.chat.endpoint.key_env = config.budget.tokens = None
    config.benchmark.limit = None if config.benchmark.name in OTHERS else 24
    config.chat.token_field = "max_tokens"
    programs = SOURCE.get(config.benchmark.name, "bigcodebench") == "bigcodebench"
    config.language.update(epochs=3, batch=4, concurrency=1, give_up_after=4, save_every=1)
    # A final answer of the DB tasks lists up to 20 rows; 160 tokens cut those of 8 tasks in 60.
    long = programs or config.benchmark.name == "lifelong_db"
    config.language.update(max_tokens=400 if long else 160, summary_max_tokens=96)
    config.language.update(content_chars=2_400, inject_chars=2_400)
    config.language.memory.update(keep=2, capacity=512)
    if config.benchmark.name == "lifelong_db" and _preset_of(config) == "paper":
        # What paid with this model (experiments/results/language_benchmarks): failures are stored, not
        # shown, and three memories are.
        config.language.memory.update(keep=3, initial_success=0.5, initial_failure=-0.5, minimum=-0.4)
        config.language.inject_chars = 3_600
    config.benchmark.options.update(LOCAL_OPTIONS.get(config.benchmark.name, {}))
    if config.benchmark.name == "alfworld":
        config.language.max_tokens = 24  # a command


def _smoke(config: ConfigDict) -> None:
    """Every part once, on a few tasks."""
    config.benchmark.limit = 4
    config.budget.tokens = 200_000
    config.language.update(
        epochs=2, batch=2, give_up_after=2, max_tokens=min(config.language.max_tokens, 512)
    )
    config.language.memory.capacity = 64


VARIANTS: dict[str, base.Variant] = {
    **{name: partial(_benchmark, name=name) for name in (*SOURCE, *OTHERS)},
    **{mode: partial(_mode, mode=mode) for mode in MODES},
    **{name: partial(_preset, name=name) for name in ("paper", "code", "neutral")},
    "summaries": partial(_summaries, on=True),
    "records": partial(_summaries, on=False),
    "ngrams": _ngrams,
    "minilm": partial(_embedder, kind="minilm", dim=384),
    "wordllama": partial(_embedder, kind="wordllama", dim=256),
    "transfer": _transfer,
    "local": _local,
    "smoke": _smoke,
}
