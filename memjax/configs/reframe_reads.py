"""The reads of `memjax.configs.reframe`: the literal one, those that act, and what the memory holds."""

from functools import partial

from ml_collections import ConfigDict

from memjax.configs import base

# The networks that are trained on the bank, as the default had them before.
FORMER_READ_OUT = {
    "widths": (128, 128),
    "steps": 10_000,
    "batch": 256,
    "weight_decay": 1e-4,
    "noise": 0.03,
    "activation": "tanh",
    "loss": "squared",
}

FORMER_TRUST = {"again": 0.0}


def literal(config: ConfigDict) -> None:
    """The paper's read as we understand it: latents enter the transformer, and its loss decides what for.

    All that differs from it in the default is set, so that runs from when it was the default go on.
    """
    config.agent.read.update(kind="latent", k=16)
    config.agent.trust.update(handover="blend", quantile=0.95, leave=0.1, promise=0.0, **FORMER_TRUST)
    config.agent.read_out.update(FORMER_READ_OUT, labels="corrected")


def _latent(config: ConfigDict, **fields) -> None:
    """The literal read with another query, similarity or fusion."""
    literal(config)
    config.agent.read.update(fields)


def _neighbours(config: ConfigDict, k: int) -> None:
    """How many entries are read: by the literal read, or by one of those that act."""
    if config.agent.read.kind == "clone":  # it makes its action of none
        literal(config)
    config.agent.read.k = k


def _acting(config: ConfigDict, kind: str, k: int = 1) -> None:
    """A memory beside the transformer that gives another action than the default's.

    "gate": the nearest entry's; "corrected": that with a correction from a model of the poor data;
    "difference": that of a network over 4 neighbours.
    """
    config.agent.read.update(kind=kind, k=k)
    if kind != "clone":  # what is larger in the default's networks would cost "difference" k times as much
        _former(config)
    if kind == "corrected":
        config.data.encoder_steps = 60_000


def _former(config: ConfigDict) -> None:
    """The networks and the trust of the default before; runs that began with them go on."""
    config.agent.read_out.update(FORMER_READ_OUT)
    config.agent.trust.update(FORMER_TRUST)


def _corrected_labels(config: ConfigDict) -> None:
    """Networks of the bank learn its actions with corrections from a model of the poor data."""
    config.agent.read_out.labels = "corrected"
    config.data.encoder_steps = 60_000


def _handover(config: ConfigDict, handover: str) -> None:
    """ "switch": the memory takes over while it earns what it promised; "blend": a mean of both actions."""
    asked = {"promise": 0.5, "again": 1.2} if handover == "switch" else {"promise": 0.0, **FORMER_TRUST}
    config.agent.trust.update(handover=handover, **asked)


def _returns(config: ConfigDict) -> None:
    """No trust in entries that earned less than the poor data do there."""
    config.agent.trust.returns = "compared"
    config.data.encoder_steps = 60_000


def _experts(config: ConfigDict, count: int) -> None:
    """How many expert trajectories the bank is filled with."""
    config.data.num_experts = config.agent.bank.trajectories = count
    config.agent.bank.capacity = 1000 * count


def _mixed_encoder(config: ConfigDict) -> None:
    """The autoencoder of the literal read learns from as many poor steps as expert ones."""
    literal(config)
    config.data.encoder_steps = 60_000


def _mixed(config: ConfigDict, share: float) -> None:
    """The memory on, and its experts mixed in as in control 2: does it add to the same information?

    A window never reads its own trajectory; share 0: by their number of steps.
    """
    config.data.mix = "share" if share else "uniform"
    config.data.mix_share = share
    config.agent.read.exclude_own = True


def _utilities(config: ConfigDict) -> None:
    """MemRL's rule chooses among 64 entries, with utilities learned from held-out advantage."""
    _latent(config, recall=64)
    config.data.update(holdout=0.1, credit_every=10)


READS: dict[str, base.Variant] = {
    "literal": literal,
    "gate": partial(_acting, kind="gate"),
    "corrected": partial(_acting, kind="corrected"),
    "difference": partial(_acting, kind="difference", k=4),
    "clone": partial(_acting, kind="clone"),
    "former": _former,
    "corrected_labels": _corrected_labels,
    "switch": partial(_handover, handover="switch"),
    "blend": partial(_handover, handover="blend"),
    "returns": _returns,
    "query_ae": partial(_latent, query="ae"),
    "query_both": partial(_latent, query="hidden+ae"),
    "concat": partial(_latent, fusion="concat"),
    "early": partial(_latent, fusion="early", query="ae"),
    "prefix": partial(_latent, fusion="prefix", query="ae"),
    "cosine": partial(_latent, similarity="cosine"),
    "mixed": partial(_mixed, share=0.0),
    "mixed50": partial(_mixed, share=0.5),
    "mixed_encoder": _mixed_encoder,
    "utilities": _utilities,
    **{f"k{k}": partial(_neighbours, k=k) for k in (1, 4, 64)},
    "k_all": partial(_latent, k=0),
    **{f"experts{n}": partial(_experts, count=n) for n in (1, 2, 5, 6, 10, 15, 30, 120, 300)},
}
