"""Text where an encoding lacks some of its characters: a terminal of Windows, a log, a font."""

from __future__ import annotations

import codecs
import unicodedata

ERRORS = "rossbench.spelled"
"""Name of the error handler that ``spelled`` uses; for streams."""
_SPELLED = {"ε": "eps", "τ": "tau", "→": "->", "—": "-", "–": "-", "±": "+-", "×": "x", "·": ".", "“": '"', "”": '"'}


def ascii_of(character: str) -> str:
    """What a character is written as in ASCII: its name in letters, without its accent, or ``?``."""
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return _SPELLED.get(character) or plain or "?"


def spelled(text: str, encoding: str) -> str:
    """The text with each character that the encoding lacks in ASCII: ``ε → é`` is ``eps -> e`` there."""
    return text.encode(encoding, ERRORS).decode(encoding)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(ascii_of, error.object[error.start : error.end])), error.end


codecs.register_error(ERRORS, _spell)
