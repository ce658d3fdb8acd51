"""Builds the chat model and the embedder of a run from their config sections.

A request is first looked up in the store, then paid from the budget, then sent to the endpoint. So a reply
from the store costs nothing, and a replay needs no endpoint, no key and no package.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from memjax.llm.clients.budget import BudgetedChat, Ledger
from memjax.llm.clients.cache import Store, StoredChat, StoredEmbedder
from memjax.llm.clients.config import BudgetConfig, ChatConfig, EmbedConfig, StoreConfig
from memjax.llm.clients.embed_local import HashedNgrams
from memjax.llm.types import Chat, Embedder

SPENDING_FILE = "spending.sqlite"


class Models(NamedTuple):
    """The models of a run."""

    chat: Chat
    embedder: Embedder
    ledger: Ledger  # what the chat model has cost


@contextlib.contextmanager
def open_models(
    chat: ChatConfig, embed: EmbedConfig, store: StoreConfig, budget: BudgetConfig, folder: Path
) -> Iterator[Models]:
    """Opens the models of a run, and closes their files at the end of the `with` block.

    The budget covers chat only. Embeddings are not counted: each intent is embedded once in a whole run.

    Args:
      chat: config of the chat model.
      embed: config of the embedding model.
      store: config of the store of replies and vectors.
      budget: what the run may spend.
      folder: where the record of the spending is kept.

    Yields:
      The models.

    Raises:
      ConfigError: a key, a package or a file is missing.
    """
    with contextlib.ExitStack() as stack:
        replays = store.mode == "replay"
        kept = stack.enter_context(contextlib.closing(Store(store))) if store.mode != "off" else None
        ledger = stack.enter_context(contextlib.closing(Ledger(budget, Path(folder) / SPENDING_FILE)))
        talker = None if replays else BudgetedChat(_chat(chat), ledger)
        if kept is not None:
            name, server = chat.endpoint.model, chat.endpoint.base_url
            talker = StoredChat(talker, kept, name=name, settings=_settings(chat), server=server)
        embedder = _embedder(embed, kept, replays)
        assert talker is not None
        yield Models(talker, embedder, ledger)


def _chat(config: ChatConfig) -> Chat:
    from memjax.llm.clients.openai_chat import OpenAIChat

    return OpenAIChat(config)


def _settings(config: ChatConfig) -> Any:
    """The settings that shape a reply beside the request itself; None where there are none."""
    other = [n for n in ("send_seed", "send_temperature") if not getattr(config, n)]
    other += [f"choices {config.choices}"] if config.choices else []
    return [config.extra, other] if other else config.extra or None


def _embedder(config: EmbedConfig, store: Store | None, replays: bool) -> Embedder:
    """The embedder. Only an endpoint's vectors are stored: computing others is faster than a look-up."""
    if config.kind == "local":
        return HashedNgrams(config.dim)
    if config.kind in ("wordllama", "minilm"):
        from memjax.llm.clients import embed_models

        return getattr(embed_models, config.kind)(config.dim)
    assert config.endpoint is not None
    from memjax.llm.clients.openai_chat import OpenAIEmbedder

    made = None if replays else OpenAIEmbedder(config)
    if store is None:
        assert made is not None
        return made
    return StoredEmbedder(
        made, store, name=config.endpoint.model, dim=config.dim, server=config.endpoint.base_url
    )
