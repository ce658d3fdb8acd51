"""Keeps untrusted text from imitating the delimiters of a prompt, even with look-alike characters.

Delimiters are searched in the skeleton of a text: invisible characters are dropped, and look-alikes of
brackets and letters are replaced by the plain character (as in Unicode TR 39, for the letters that occur in
our delimiters). The text itself is changed only where its skeleton has a delimiter: there the opening bracket
becomes "(".
"""

import re
import unicodedata

_BRACKETS = dict.fromkeys(
    "<\uff1c\ufe64\u2039\u2329\u27e8\u3008\u300a\u00ab\u02c2\u1438\u2770\u276e\u29fc\u276c", "<"
)
_BRACKETS |= dict.fromkeys("[\uff3b\u27e6\u3010\u301a", "[")
_BRACKETS |= dict.fromkeys("|\uff5c\u2223\u01c0\u2758\u00a6", "|")
_BRACKETS |= dict.fromkeys("/\uff0f\u2044\u2215\u29f8\u2571\\\uff3c", "/")
# Cyrillic, Greek and Armenian letters, and small capitals, that look like Latin letters. Full-width and bold
# letters and accents are not listed, since the normalisation NFKD replaces them.
_LETTERS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u043c\u0433\u0501\u0442"
    "\u03bf\u03c1\u03b5\u03b9\u03b1\u0585\u0280\u1d0f\u1d07\u1d0d\u1d04\u1d05\u1d00\u028f\u026a",
    "aeopcyxismrdtopeiaoroemcdayi",
)
_BLANK = "\u115f\u1160\u3164\uffa0\u2800"  # letters that are shown as blank
_MARK = re.compile(
    r"<(?=[\s/]*(?:memory|memories|record|system|think|thinking|thoughts?|reasoning|s)\b)"
    r"|<(?=\s*\||<[\s/]*sys\s*>)"  # <|im_start|>, <<SYS>>
    r"|&(?=(?:lt|#0*60|#x0*3c);?[\s/]*(?:memory|memories|record)\b)"  # &lt;/memory>
    r"|\[(?=[\s/]*(?:inst|system_prompt|think|available_tools)\s*\])"  # [INST]
)


def disarm(text: str) -> str:
    """The text with delimiters of ours and of chat templates made harmless. Its length does not change."""
    skeleton, places = _skeleton(text)
    found = [places[m.start()] for m in _MARK.finditer(skeleton)]
    letters = list(text)
    for place in found:
        letters[place] = "("
    return "".join(letters)


def _skeleton(text: str) -> tuple[str, list[int]]:
    """The skeleton, and for each of its characters the index of the character of the text it comes from."""
    kept: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        seen = _seen(character)
        kept.append(seen)
        places += [place] * len(seen)
    return "".join(kept), places


def _seen(character: str) -> str:
    """The plain character, or characters, that a character looks like; "" where it is invisible."""
    if character.isspace():
        return " "
    if character in _BRACKETS:
        return _BRACKETS[character]
    if character.isascii():
        return character.lower() if character.isprintable() else ""
    if character in _BLANK:
        return ""
    plain = unicodedata.normalize("NFKD", character).casefold()
    visible = [c for c in plain if unicodedata.category(c) not in ("Cf", "Cc", "Mn", "Me", "Cn")]
    return "".join(_BRACKETS.get(c, c) for c in visible).translate(_LETTERS)
