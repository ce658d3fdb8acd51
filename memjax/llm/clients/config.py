"""The config sections of the language-model side: endpoints, embeddings, budgets."""

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from memjax.schema import NonNegativeFloat, NonNegativeInt, OpenSection, PositiveFloat, PositiveInt, UserPath
from memjax.types import ConfigError


@dataclass(frozen=True)
class EndpointConfig:
    """One OpenAI-compatible endpoint. No key stands here: `key_env` names the variable that holds it."""

    base_url: str  # such as http://127.0.0.1:8080/v1
    model: str  # as the endpoint calls it
    key_env: str | None  # environment variable of the key; None: the endpoint wants no key
    timeout: PositiveFloat  # seconds, for one answer
    retries: NonNegativeInt  # further attempts after the first
    backoff: PositiveFloat  # seconds before the first retry; doubles, with jitter
    max_wait: PositiveFloat  # seconds, the longest pause between attempts, whatever the endpoint asks for

    def check(self) -> None:
        """Raises ConfigError where the URL is none, or carries a name or a key."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("base_url", "a URL such as http://127.0.0.1:8080/v1", repr(self.base_url))
        if parts.username or parts.password or parts.query:
            # Why not shown: it may be a secret.
            raise ConfigError("base_url", "a URL without a user, a password or a query", "one with")
        if not self.model:
            raise ConfigError("model", "the name of a model", "''")


@dataclass(frozen=True)
class ChatConfig:
    """A chat model."""

    endpoint: EndpointConfig
    token_field: Literal["max_tokens", "max_completion_tokens"]  # newer hosted models know the second alone
    extra: OpenSection  # further fields of the request, such as top_p
    send_seed: bool = True  # False: for servers that refuse the field
    send_temperature: bool = True  # False: no request carries one, for models that take their default alone

    def check(self) -> None:
        """Raises ConfigError where `extra` holds what the client sets itself."""
        own = {
            "model",
            "messages",
            "temperature",
            "seed",
            "stream",
            "n",
            "max_tokens",
            "max_completion_tokens",
        }
        taken = sorted(own & set(self.extra))
        if taken:
            raise ConfigError(f"extra.{taken[0]}", "a field that the client does not set itself", "this one")


@dataclass(frozen=True)
class EmbedConfig:
    """An embedding model."""

    kind: Literal["local", "openai", "wordllama", "minilm"]  # "local": hashed n-grams, a baseline
    dim: PositiveInt  # width of a vector; what the model gives must be as wide
    batch: PositiveInt  # texts in one request
    endpoint: EndpointConfig | None  # of "openai"; None otherwise

    def check(self) -> None:
        """Raises ConfigError where an endpoint is missing or of no use."""
        if (self.kind == "openai") != (self.endpoint is not None):
            expected = "a section" if self.kind == "openai" else "None"
            got = "None" if self.endpoint is None else "a section"
            raise ConfigError("endpoint", f"{expected} with kind '{self.kind}'", got)


@dataclass(frozen=True)
class BudgetConfig:
    """What a run may spend in all its launches together. None: no limit."""

    tokens: NonNegativeInt | None  # prompt and completion
    money: NonNegativeFloat | None  # in the currency of the prices
    prompt_price: NonNegativeFloat  # for a million tokens
    completion_price: NonNegativeFloat


@dataclass(frozen=True)
class StoreConfig:
    """The store of replies and vectors, by the hash of what was asked."""

    mode: Literal["off", "cache", "replay"]  # "replay": nothing is asked of any endpoint
    path: UserPath  # an SQLite file, made where there is none (but not by "replay"); "" with "off"

    def check(self) -> None:
        """Raises ConfigError where a path is missing."""
        if (self.mode == "off") != (self.path == ""):
            expected = "''" if self.mode == "off" else "a path"
            raise ConfigError("path", f"{expected} with mode '{self.mode}'", repr(self.path))
