"""Replies that are one of some texts: how a request asks for it, and how the answer is read."""

import json
from collections.abc import Sequence
from typing import Any, Literal

# "": not at all, the reply is free. "grammar": llama.cpp's server. "structured_outputs": vLLM from 0.12 on.
# "json_schema": OpenAI's structured outputs, which others know as well.
Choices = Literal["", "grammar", "structured_outputs", "json_schema"]

_NAME = "choice"  # of the one field of a JSON answer


def choice_fields(kind: Choices, choices: Sequence[str]) -> dict[str, Any]:
    """The further fields of a request whose reply must be one of `choices`; none for the kind ""."""
    if kind == "grammar":
        return {"grammar": f"root ::= {' | '.join(map(_quoted, choices))}"}
    if kind == "structured_outputs":
        return {"structured_outputs": {"choice": list(choices)}}
    if kind == "json_schema":  # an object, as OpenAI takes no other value
        schema = {
            "type": "object",
            "properties": {_NAME: {"type": "string", "enum": list(choices)}},
            "required": [_NAME],
            "additionalProperties": False,
        }
        form = {"name": _NAME, "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": form}}
    return {}


def chosen(kind: Choices, text: str, choices: Sequence[str]) -> str | None:
    """Which of `choices` a reply is; None where it is none of them, as with servers that ignore them.

    With the kind "" any reply is returned as it is.
    """
    if not kind:
        return text
    if kind == "json_schema":
        try:
            text = str(json.loads(text)[_NAME])
        except (ValueError, LookupError, TypeError):
            return None
    known = {choice.strip(): choice for choice in choices}
    return known.get(text.strip())


def _quoted(text: str) -> str:
    """A text as a literal of llama.cpp's grammars (GBNF)."""
    plain = (c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text)
    return f'"{"".join(plain)}"'
