"""Chat and embeddings of an OpenAI-compatible endpoint (vLLM, llama.cpp's server, a hosted one)."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax.llm.clients.choices import choice_fields, chosen
from memjax.llm.clients.config import ChatConfig, EmbedConfig
from memjax.llm.clients.endpoint import Endpoint
from memjax.llm.clients.wire import content_text, count_of, turns, vector_of, without_thoughts
from memjax.llm.run.prompts import plain
from memjax.llm.types import Message, Reply, unit_rows
from memjax.types import ConfigError


class OpenAIChat:
    """A `Chat` that asks an OpenAI-compatible endpoint.

    Args:
      config: the endpoint and the settings of a request.
      field: path of `config` in the run's config, for error messages.

    Raises:
      ConfigError: the key or the package is missing, or `config.extra` contains the key.
    """

    def __init__(self, config: ChatConfig, *, field: str = "chat"):
        self.config = config
        self.name = config.endpoint.model
        self._endpoint = Endpoint(config.endpoint, field=f"{field}.endpoint")
        if self._endpoint.masked(shown := json.dumps(config.extra)) != shown:
            raise ConfigError(
                f"{field}.extra", "fields without the key, which goes with every request", "the key"
            )

    def complete(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        choices: Sequence[str] = (),
    ) -> Reply:
        """One reply, as `Chat.complete`; one of `choices` where `config.choices` says how to ask for that.

        Raises:
          ChatError: of kind down, timeout, rate_limit, auth, refused or malformed.
        """
        offered = choice_fields(self.config.choices, choices) if choices else {}
        body: dict[str, Any] = {
            "model": self.name,
            "messages": turns(messages),
            self.config.token_field: max_tokens,
            "extra_body": dict(self.config.extra) | offered,
        }
        if self.config.send_temperature:
            body["temperature"] = temperature
        if self.config.send_seed:
            body["seed"] = seed
        return self._endpoint.call(
            lambda client: client.chat.completions.with_raw_response.create(**body),
            len(json.dumps(body)),
            lambda answer: self._chosen(self._read(answer), choices),
        )

    def _chosen(self, reply: Reply, choices: Sequence[str]) -> Reply:
        """The reply as one of `choices`; any reply where there are none. Raises ChatError."""
        text = chosen(self.config.choices, reply.text, choices) if choices else reply.text
        if text is None:
            # No other try: the server does not know the field, or the reply did not fit.
            why = (
                "within max_tokens" if reply.finish == "length" else f"(chat.choices: {self.config.choices})"
            )
            raise self._endpoint.error(
                f"none of {len(choices)} choices {why}: {reply.text!r}", kind="malformed"
            )
        return reply._replace(text=text)

    def _read(self, answer: dict) -> Reply:
        choice = answer["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason") or "stop"
        if message.get("refusal") or finish == "content_filter":
            raise self._endpoint.error(f"refused: {message.get('refusal') or finish}", kind="refused")
        text = self._endpoint.masked(plain(without_thoughts(content_text(message.get("content")))))
        if not text.strip():
            # All tokens went into thoughts; the same request again would end the same way.
            if finish == "length":
                raise self._endpoint.error("no text within max_tokens", kind="malformed")
            thought = message.get("content") or message.get("reasoning_content") or message.get("reasoning")
            what = "an answer without content, thoughts alone" if thought else "an empty answer"
            raise self._endpoint.transient(what, kind="malformed")
        usage = answer.get("usage")
        tokens = count_of(usage, "prompt_tokens"), count_of(usage, "completion_tokens")
        return Reply(text, *tokens, str(finish))


class OpenAIEmbedder:
    """An `Embedder` that asks an OpenAI-compatible endpoint.

    Args:
      config: the endpoint, the width of a vector, and how many texts go into one request.
      field: path of `config` in the run's config, for error messages.

    Raises:
      ConfigError: the key or the package is missing.
    """

    def __init__(self, config: EmbedConfig, *, field: str = "embed"):
        assert config.endpoint is not None  # EmbedConfig checks it
        self.name, self.dim = config.endpoint.model, config.dim
        self._batch, self._field = config.batch, field
        self._endpoint = Endpoint(config.endpoint, field=f"{field}.endpoint")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[n, dim] f32, one row of norm one for each text.

        Raises:
          ChatError: as `OpenAIChat.complete`.
          ConfigError: a text is empty, or the model's vectors have another width than `dim`.
        """
        if any(not text for text in texts):
            raise ConfigError("texts", "texts that are not empty", "''")
        parts = [self._some(texts[i : i + self._batch]) for i in range(0, len(texts), self._batch)]
        return np.concatenate([np.zeros((0, self.dim), np.float32), *parts])

    def _some(self, texts: Sequence[str]) -> np.ndarray:
        body = {"model": self.name, "input": list(texts), "encoding_format": "float"}
        return self._endpoint.call(
            lambda client: client.embeddings.with_raw_response.create(**body),
            len(json.dumps(body)),
            lambda answer: self._read(answer, len(texts)),
        )

    def _read(self, answer: dict, expected: int) -> np.ndarray:
        items = sorted(answer["data"], key=lambda item: item["index"])
        if [item["index"] for item in items] != list(range(expected)):
            raise ValueError("other texts than those asked for")
        vectors = [vector_of(item["embedding"]) for item in items]
        other = next((len(vector) for vector in vectors if len(vector) != self.dim), None)
        if other is not None:
            got = f"{self.dim}, and vectors of {other} came"
            raise ConfigError(f"{self._field}.dim", f"the width of {self.name}'s vectors", got)
        return unit_rows(np.stack(vectors))
