"""Slots of one cache of keys and values, in which the requests of `batched_model.py` advance together.

Each request has a slot. All slots advance by one token together, as a CUDA graph; in between, the prompts of
new requests are read into free slots. What a prompt has in common with the text of any slot (the
instructions, earlier turns) is copied, not computed again.
"""

import sys
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

try:
    import torch  # type: ignore[import-not-found]  # no dependencies of memjax's
    import torch.nn.functional as F  # type: ignore[import-not-found]
    from transformers import (  # type: ignore[import-not-found]
        AttentionInterface,
        AutoModelForCausalLM,
        AutoTokenizer,
    )
except ImportError as error:
    sys.exit(f"batched_model.py: expected the packages torch, transformers and gguf, got {error}")

SPANS = (256, 512, 768, 1024, 1280, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
CHUNK = 16_384  # prompt tokens, padding included, that are read together
WAITING = 16  # prompts are read when so many wait, ...
STEPS = 8  # ... or after so many tokens
ROUND = 64  # the length that attention reads is a multiple, for the kernels' sake


class Answer(NamedTuple):
    """A reply's tokens, without the one that ended it."""

    tokens: list[int]
    finish: str  # "stop" or "length"


class Request:
    """A request in a slot, or on its way there."""

    def __init__(self, ids: np.ndarray, max_tokens: int, temperature: float, seed: int):
        self.ids, self.max_tokens, self.temperature = ids, max_tokens, temperature
        self.draws = np.random.default_rng(seed)
        self.out: list[int] = []
        self.answer: Future[Answer] = Future()


class Place(NamedTuple):
    """Where a forward pass writes its keys and values, and how far it reads."""

    cache: torch.Tensor  # [layers, 2, slots, heads of keys, context, D]
    slots: torch.Tensor | None  # [n]; None: all
    positions: torch.Tensor  # [n, T]
    span: int


class Model:
    """The model, whose attention reads and writes the slots of a `Place`.

    Args:
      net: a decoder of transformers'.
      tokenizer: with a chat template.
      device: of `net`.
      ends: tokens that end a reply.
    """

    def __init__(self, net: Any, tokenizer: Any, device: str, ends: set[int]):
        AttentionInterface.register("slots", self._attend)
        net.set_attn_implementation("slots")
        self.net, self.tokenizer, self.device, self.ends = net, tokenizer, device, ends
        self.place: Place | None = None
        self._lock = threading.Lock()  # the tokenizer is not safe under several threads

    @classmethod
    def load(cls, path: Path, tokenizer: Path | None, device: str, dtype: torch.dtype) -> "Model":
        """Reads a GGUF file, or a folder of transformers'."""
        where: dict[str, Any] = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        folder = path.parent if where else path
        words = AutoTokenizer.from_pretrained(tokenizer or folder, **({} if tokenizer else where))
        net = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **where).to(device).eval()
        known = words.get_vocab()
        ends = [words.eos_token_id, net.generation_config.eos_token_id]
        ends += [known.get(name) for name in ("<|endoftext|>", "<|im_end|>", "<|eot_id|>")]
        flat = [x for end in ends for x in (end if isinstance(end, list) else [end])]
        return cls(net, words, device, {x for x in flat if x is not None})

    def encode(self, messages: Sequence[dict[str, str]]) -> np.ndarray:
        """The tokens of a conversation, up to where the reply begins."""
        with self._lock:
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        with self._lock:
            return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def logits(self, tokens: torch.Tensor, last: torch.Tensor | None, place: Place) -> torch.Tensor:
        """[n, vocabulary] after the token at `last` of each row of `tokens` [n, T]; None: the only one."""
        self.place = place
        reach = torch.arange(place.span, device=self.device)
        mask = (reach <= place.positions[..., None])[:, None]  # [n, 1, T, span]
        hidden = self.net.model(
            input_ids=tokens, attention_mask=mask, position_ids=place.positions, use_cache=False
        ).last_hidden_state
        rows = hidden[:, 0] if last is None else hidden[torch.arange(len(last), device=self.device), last]
        return self.net.lm_head(rows)

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scaling: float | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        place = self.place
        assert place is not None
        keys, values = place.cache[module.layer_idx]
        slots = torch.arange(len(query), device=self.device) if place.slots is None else place.slots
        keys[slots[:, None], :, place.positions] = key.transpose(1, 2)
        values[slots[:, None], :, place.positions] = value.transpose(1, 2)
        if place.slots is None:  # a view, not a copy
            keys, values = keys[:, :, : place.span], values[:, :, : place.span]
        else:
            keys, values = keys[slots, :, : place.span], values[slots, :, : place.span]
        n, heads, length, width = query.shape
        groups = heads // keys.shape[1]
        scale = width**-0.5 if scaling is None else scaling
        if length == 1:  # heads that share a key are the rows of one product, so that no key is repeated
            shared = query.reshape(n, keys.shape[1], groups, width)
            scores = (shared @ keys.transpose(2, 3)).float() * scale
            weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(values.dtype)
            return (weights @ values).reshape(n, 1, heads, width), None
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
        found = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
        return found.transpose(1, 2), None


class Slots:
    """Requests that advance together, and those that wait for it."""

    def __init__(self, model: Model, slots: int, context: int, *, eager: bool):
        self.model, self.context, self.eager = model, context, eager
        config, device = model.net.config, model.device
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, slots, config.num_key_value_heads, context, width)
        self.cache = torch.zeros(shape, dtype=model.net.dtype, device=device)
        # The last place of a slot takes what padding and slots without a request write.
        self.tokens = torch.zeros(slots, dtype=torch.long, device=device)
        self.positions = torch.full((slots,), context - 1, dtype=torch.long, device=device)
        self.scores = torch.zeros((slots, config.vocab_size), dtype=model.net.dtype, device=device)
        self.best = torch.zeros(slots, dtype=torch.long, device=device)
        self.requests: list[Request | None] = [None] * slots
        self.ids = np.full((slots, context), -1, np.int64)
        self.valid = np.zeros(slots, np.int64)  # tokens of `ids` whose keys and values are there
        self.used = np.zeros(slots, np.int64)
        self.waiting: deque[Request] = deque()
        self.graphs: dict[int, Any] = {}
        self.clock = self.since = self.read = self.copied = self.written = 0

    @torch.inference_mode()
    def advance(self) -> bool:
        """Reads prompts, or writes a token in each slot that has a request. False: nothing is to be done."""
        active = sum(x is not None for x in self.requests)
        free = len(self.requests) - active
        enough = len(self.waiting) >= min(WAITING, free) or self.since >= STEPS
        if self.waiting and free and (enough or not active):
            self.since = 0
            self._admit(free)
        elif active:
            self.since += 1
            self._write()
        return bool(active or self.waiting)

    def _admit(self, free: int) -> None:
        """Gives waiting requests a slot each, and reads what their prompts do not share with another slot."""
        new = [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]
        placed: list[tuple[int, int, Request]] = []
        while new or placed:
            while new and len(placed) < 4 * WAITING:
                placed.append(self._place(new.pop(0)))
            placed.sort(key=lambda x: len(x[2].ids) - x[1])
            longest, count = 0, 0
            for _, shared, request in placed:
                longest = max(longest, len(request.ids) - shared)
                if count and longest * (count + 1) > CHUNK:
                    break
                count += 1
            self._read(placed[:count])
            placed = placed[count:]

    def _place(self, request: Request) -> tuple[int, int, Request]:
        """A slot, and how many of the prompt's tokens are in it already."""
        n = len(request.ids)
        same = self.ids[:, :n] == request.ids
        common = np.where(same.all(axis=1), n, np.argmin(same, axis=1))
        common = np.minimum(np.minimum(common, self.valid), n - 1)  # the last token is always read
        source, free = int(np.argmax(common)), [i for i, x in enumerate(self.requests) if x is None]
        shared = int(common[source])
        goes_on = source in free and shared > 0.8 * self.valid[source]  # such as the next turn of a dialogue
        slot = source if goes_on else min(free, key=lambda i: self.used[i])
        if slot != source and shared:
            self.cache[:, :, slot, :, :shared] = self.cache[:, :, source, :, :shared]
        self.ids[slot] = -1
        self.ids[slot, :n] = request.ids
        self.valid[slot], self.requests[slot] = shared, request
        self.clock += 1
        self.used[slot] = self.clock
        self.copied += shared
        return slot, shared, request

    def _read(self, placed: Sequence[tuple[int, int, Request]]) -> None:
        """Runs the model over prompts, and draws the first token of each reply."""
        n, longest = len(placed), max(len(x.ids) - shared for _, shared, x in placed)
        tokens = np.zeros((n, longest), np.int64)
        positions = np.full((n, longest), self.context - 1)
        for i, (_, shared, request) in enumerate(placed):
            rest = request.ids[shared:]
            tokens[i, : len(rest)] = rest
            positions[i, : len(rest)] = np.arange(shared, len(request.ids))
            self.read += len(rest)
        slots = [slot for slot, _, _ in placed]
        last = [len(x.ids) - shared - 1 for _, shared, x in placed]
        most = max(len(x.ids) for _, _, x in placed)
        span = min(-(-most // ROUND) * ROUND, self.context)
        place = Place(self.cache, self._put(slots), self._put(positions), span)
        scores = self.model.logits(self._put(tokens), self._put(last), place)
        for slot, _, request in placed:
            self.valid[slot] = len(request.ids)
        self._take(slots, scores, scores.argmax(dim=-1))

    def _write(self) -> None:
        """One token more in every slot that has a request."""
        slots = [i for i, x in enumerate(self.requests) if x is not None]
        most = int(self.valid[slots].max()) + 1
        span = next((x for x in SPANS if most <= x <= self.context), self.context)
        if not self.eager and span not in self.graphs:
            try:
                self.graphs[span] = self._captured(span)
            except RuntimeError as error:
                self.eager = True
                print(f"without CUDA graphs from now on: {error}", file=sys.stderr, flush=True)
        if self.eager:
            self._step(span)
        else:
            self.graphs[span].replay()
        self.valid[slots] += 1
        self._take(slots, self.scores, self.best, rows=slots)

    def _step(self, span: int) -> None:
        place = Place(self.cache, None, self.positions[:, None], span)
        scores = self.model.logits(self.tokens[:, None], None, place)
        self.scores.copy_(scores)
        self.best.copy_(scores.argmax(dim=-1))

    def _captured(self, span: int) -> Any:
        """A CUDA graph of `_step`. The steps that warm up write what the first replay writes again."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._step(span)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._step(span)
        return graph

    def _take(
        self,
        slots: Sequence[int],
        scores: torch.Tensor,
        best: torch.Tensor,
        rows: Sequence[int] | None = None,
    ) -> None:
        """Gives each slot its next token, and ends the requests that are done."""
        rows = range(len(slots)) if rows is None else rows
        drawn = {s: r for s, r in zip(slots, rows, strict=True) if self._request(s).temperature > 0.0}
        chosen = best.tolist()
        next_ = {slot: chosen[row] for slot, row in zip(slots, rows, strict=True)}
        if drawn:
            requests = [self._request(slot) for slot in drawn]
            heat = self._put([x.temperature for x in requests])[:, None]
            ends = self._put([x.draws.random() for x in requests])[:, None]
            sums = (scores[self._put(list(drawn.values()))].double() / heat).softmax(-1).cumsum(-1)
            samples = (sums < ends * sums[:, -1:]).sum(-1).tolist()
            next_ |= dict(zip(drawn, samples, strict=True))
        places = []
        for slot in slots:
            request, token = self._request(slot), next_[slot]
            ended = token in self.model.ends
            if not ended:
                request.out.append(token)
                self.ids[slot, self.valid[slot]] = token
            if ended or len(request.out) >= request.max_tokens:
                self.requests[slot] = None
                self.written += len(request.out)
                request.answer.set_result(Answer(request.out, "stop" if ended else "length"))
            places.append(self.context - 1 if self.requests[slot] is None else int(self.valid[slot]))
        where = self._put(list(slots))
        self.tokens[where] = self._put([next_[slot] for slot in slots])
        self.positions[where] = self._put(places)

    def _request(self, slot: int) -> Request:
        request = self.requests[slot]
        assert request is not None
        return request

    def _put(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values)).to(self.model.device)
