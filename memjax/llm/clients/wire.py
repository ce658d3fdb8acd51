"""Conversion between our types and the JSON of servers.

Outgoing: conversations in a form that every chat template accepts. Incoming: the text of a reply, the reason
of an error, the numbers of an embedding. Servers differ in the form of each, so these functions are lenient.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memjax.llm.types import Message

# How models mark the thoughts that precede their answer: most with <think>, as DeepSeek and Qwen do,
# Magistral with [THINK], Kimi with ◁think▷, and gpt-oss with channels.
_NAMES = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning)"
_END = re.compile(rf"</{_NAMES}\s*>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>", re.IGNORECASE)
_BEGIN = re.compile(
    rf"\s*(?:<{_NAMES}\s*>|\[THINK\]|◁think▷|<\|channel\|>analysis<\|message\|>)", re.IGNORECASE
)

_MOST_TOKENS = 1_000_000_000  # a larger count is taken for an error of the server


def turns(messages: Sequence[Message]) -> list[dict[str, str]]:
    """A conversation in the form that every chat template accepts, as plain dictionaries.

    That is: at most one system message, at the beginning, then user and assistant in turn, the user first.
    To get there all system messages are joined, and so are neighbours of the same role; a conversation that
    begins with the assistant gets a short message of the user before it.
    """
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    merged: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    for role, content in messages:
        if role == "system":
            continue
        before = merged[-1]["role"] if merged else "system"
        if role == before:
            merged[-1]["content"] += f"\n\n{content}"
            continue
        if role == "assistant" and before == "system":
            merged.append({"role": "user", "content": "Begin."})
        merged.append({"role": role, "content": content})
    return merged


def content_text(content: Any) -> str:
    """The text of a message's content, which is a string, or a list whose text parts are joined.

    Raises TypeError for any other form. None gives "".
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise TypeError(f"content is {type(content).__name__}")
    parts = [part if isinstance(part, str) else _text_of(part) for part in content]
    return "".join(parts)


def without_thoughts(text: str) -> str:
    """The answer of a model, without the thoughts before it.

    Thoughts end at the last end mark, even where no mark begins them, since a chat template may have written
    the first mark already. Thoughts that never end leave no answer: the result is "" then.
    """
    for end in _END.finditer(text):
        rest = text[end.end() :]
        if not _END.search(rest):
            text = rest
            break
    text = re.sub(r"<\|(?:end|return|im_end)\|>\s*$", "", text)
    return "" if _BEGIN.match(text) else text


def vector_of(value: Any) -> np.ndarray:
    """[D] f32, from a list of numbers, a list that holds one such list, or little-endian floats in base64.

    Raises TypeError or ValueError where it is none of these.
    """
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # the form of llama.cpp's own route
    vector = np.asarray(value, np.float32)
    if vector.ndim != 1:
        raise ValueError(
            f"an embedding of shape {list(vector.shape)}, not one vector: the server does not pool"
        )
    return vector


def count_of(usage: Any, name: str) -> int:
    """The count of tokens under `name` in `usage`; 0, for unknown, where it is missing or implausible."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else 0


def reason_of(text: str) -> str:
    """Why a request failed, from the body of the answer: JSON in any usual form, HTML, or plain text."""
    try:
        return _reason(json.loads(text)) or text
    except (ValueError, RecursionError):
        return re.sub(r"<[^<>]*>", " ", text) if text.lstrip().startswith("<") else text


def error_code(text: str) -> str:
    """The error code in the body of an answer, or else the error's type; "" where there is neither."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    error = body.get("error", body) if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")


def status_in(error: Any) -> int:
    """The HTTP status that an error in an answer of status 200 stands for; 0 where it is not known."""
    if not isinstance(error, Mapping):
        return 0
    for name in ("code", "status", "status_code"):
        value = str(error.get(name, ""))
        if value.isdigit() and 400 <= int(value) < 600:
            return int(value)
    said = f"{error.get('code', '')} {error.get('type', '')}".lower()
    known = {
        "rate_limit": 429,
        "authentication": 401,
        "invalid_request": 400,
        "overloaded": 503,
        "server_error": 500,
    }
    return next((status for word, status in known.items() if word in said), 0)


def _text_of(part: Any) -> str:
    if not isinstance(part, Mapping):
        raise TypeError(f"a part of the content is {type(part).__name__}")
    text = part.get("text", "") if part.get("type") in ("text", "output_text") else ""
    if not isinstance(text, str):
        raise TypeError(f"the text of a part is {type(text).__name__}")
    return text


def _reason(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return json.dumps(value)
    if not isinstance(value, Mapping):
        return ""
    for name in ("error", "message", "detail", "details", "msg", "reason", "title", "description"):
        found = _reason(value.get(name))
        if found:
            more = value.get("metadata") or value.get("errors")
            return f"{found} {json.dumps(more)}" if more else found
    return json.dumps(value) if value else ""
