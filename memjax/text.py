"""Text that a user wrote (in UTF-8; an error names the line of the first other byte), and lines of errors."""

import tokenize
from pathlib import Path

from memjax.types import ConfigError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def decoded(raw: bytes, field: str, kind: str = "text") -> str:
    """The text of bytes in UTF-8, with or without a byte order mark.

    Args:
      raw: the bytes.
      field: what an error names, such as the path of the file.
      kind: what it says is expected, such as "JSON".

    Raises:
      ConfigError: they are in another encoding.
    """
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        got = f"a byte of another encoding in line {line} (0x{raw[error.start]:02x})"
        raise ConfigError(field, f"{kind} in UTF-8", "UTF-16" if raw[:2] in _UTF16 else got) from None


def first_line(error: BaseException, *, kind: bool = True) -> str:
    """The first line of what an error says, after its type if `kind`; the type alone where it says none."""
    said, name = str(error).strip().partition("\n")[0], type(error).__name__
    if not said:
        return name
    return f"{name}: {said}" if kind else said


def check_source(path: Path, field: str) -> None:
    """Raises ConfigError where a Python file is neither UTF-8 nor in the encoding that it declares."""
    try:
        with tokenize.open(path) as file:
            file.read()
    except (UnicodeDecodeError, SyntaxError) as error:
        decoded(path.read_bytes(), field, f"'{path}', a Python file")
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(field, f"'{path}' in the encoding that it declares", "another one") from None
        # Its declaration is wrong, which Python says best when it is imported.
