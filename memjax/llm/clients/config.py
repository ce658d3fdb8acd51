"""The config sections of the language-model side: endpoints, embeddings, budgets."""

from dataclasses import dataclass
from typing import Annotated, Literal
from urllib.parse import urlsplit

from memjax.llm.clients.choices import Choices, choice_fields
from memjax.schema import (
    Later,
    NonNegativeFloat,
    NonNegativeInt,
    OpenSection,
    PositiveFloat,
    PositiveInt,
    UserPath,
)
from memjax.types import ConfigError


@dataclass(frozen=True)
class EndpointConfig:
    """One OpenAI-compatible endpoint. The config never holds the API key, only the name of its variable."""

    base_url: str  # such as http://127.0.0.1:8080/v1
    model: str  # as the endpoint calls it
    key_env: str | None  # environment variable of the key; None: the endpoint wants no key
    timeout: PositiveFloat  # seconds, for one answer
    retries: NonNegativeInt  # further attempts after the first
    backoff: PositiveFloat  # seconds before the first retry; doubles, with jitter
    max_wait: PositiveFloat  # seconds, the longest pause between attempts, whatever the endpoint asks for

    def check(self) -> None:
        """Raises ConfigError where `base_url` is not a URL or has credentials in it, or no model is named."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("base_url", "a URL such as http://127.0.0.1:8080/v1", repr(self.base_url))
        if parts.username or parts.password or parts.query:
            # The URL is not shown, since what stands there may be a secret.
            raise ConfigError("base_url", "a URL without a user, a password or a query", "one with")
        if not self.model:
            raise ConfigError("model", "the name of a model", "''")


@dataclass(frozen=True)
class ChatConfig:
    """A chat model."""

    endpoint: EndpointConfig
    token_field: Literal["max_tokens", "max_completion_tokens"]  # newer hosted models accept the second only
    extra: OpenSection  # further fields of the request, such as top_p
    send_seed: bool = True  # False: for servers that refuse the field
    send_temperature: bool = True  # False: for models that refuse any temperature but their default
    choices: Annotated[Choices, Later("")] = ""  # how a request says that the reply must be one of some texts

    def check(self) -> None:
        """Raises ConfigError where `extra` has a field that the client sets itself."""
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
        own |= choice_fields(self.choices, ()).keys()
        taken = sorted(own & set(self.extra))
        if taken:
            raise ConfigError(f"extra.{taken[0]}", "a field that the client does not set itself", "this one")


@dataclass(frozen=True)
class EmbedConfig:
    """An embedding model."""

    kind: Literal["local", "openai", "wordllama", "minilm"]  # "local": hashed n-grams, a baseline
    dim: PositiveInt  # width of a vector; the model's vectors must have it
    batch: PositiveInt  # texts in one request
    endpoint: EndpointConfig | None  # of "openai"; None otherwise

    def check(self) -> None:
        """Raises ConfigError where kind "openai" has no endpoint, or another kind has one."""
        if (self.kind == "openai") != (self.endpoint is not None):
            expected = "a section" if self.kind == "openai" else "None"
            got = "None" if self.endpoint is None else "a section"
            raise ConfigError("endpoint", f"{expected} with kind '{self.kind}'", got)


@dataclass(frozen=True)
class BudgetConfig:
    """What a run may spend, over all its launches together. A limit of None is no limit."""

    tokens: NonNegativeInt | None  # prompt and completion
    money: NonNegativeFloat | None  # in the currency of the prices
    prompt_price: NonNegativeFloat  # for a million tokens
    completion_price: NonNegativeFloat


@dataclass(frozen=True)
class StoreConfig:
    """The store of replies and vectors (memjax/llm/clients/cache.py)."""

    mode: Literal["off", "cache", "replay"]  # "replay": no request is sent to any endpoint
    path: UserPath  # an SQLite file; "cache" makes it, "replay" needs it to exist; "" with "off"

    def check(self) -> None:
        """Raises ConfigError where a mode other than "off" has no path, or "off" has one."""
        if (self.mode == "off") != (self.path == ""):
            expected = "''" if self.mode == "off" else "a path"
            raise ConfigError("path", f"{expected} with mode '{self.mode}'", repr(self.path))
