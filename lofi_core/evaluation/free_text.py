"""Free-text answers: when two count as the same, and where they part.

Without a rule, "Two." and "two" would count as a flip. The rule here is `normalise`; put both
tables' answers, and the true ones, through it before `lofi_core.evaluation.consistency.compare`.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

__all__ = ["first_divergent_token", "normalise"]

_ARTICLES = {"a", "an", "the"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)}


def normalise(text: str) -> str:
    """Bring an answer into a form in which equal means the same.

    In this order: Unicode NFKC and case folding; commas between a digit and three digits go;
    everything that is no letter, mark or digit becomes a space, but for a point between digits and
    a minus before a number; English articles go; ``zero`` to ``ten`` become digits; single spaces.
    Doing it twice changes nothing. Word order, plurals and synonyms are left as they are.

    Examples
    --------
    >>> normalise("  The  Two red-hot CHILLIES!"), normalise("1,000.50 m"), normalise("It is -3°.")
    ('2 red hot chillies', '1000.50 m', 'it is -3')
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = re.sub(r"[^\w\s]|_", _punctuation, folded).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


def _punctuation(found: re.Match[str]) -> str:
    """Return what takes the place of a character that is neither letter, digit nor space."""
    before, mark = found.string[: found.start()], found[0]
    after = found.string[found.end() :]
    if unicodedata.category(mark)[0] == "M":
        return mark
    number = re.match(r"\d", after) is not None
    if before[-1:].isdecimal():
        if mark == "," and re.match(r"\d{3}(?!\d)", after):
            return ""
        return mark if mark == "." and number else " "
    return mark if mark == "-" and number and not before[-1:].isalnum() else " "


def first_divergent_token(a: Sequence[Any], b: Sequence[Any]) -> int | None:
    """Position of the first token at which two answers differ.

    Parameters
    ----------
    a, b : sequences
        Token ids, or words, without the prompt.

    Returns
    -------
    int or None
        Counted from 0. If one answer continues the other, the length of the shorter; None if they
        are equal.

    Examples
    --------
    >>> first_divergent_token([5, 6, 7], [5, 9]), first_divergent_token([5], [5, 6])
    (1, 1)
    >>> first_divergent_token([5], [5]) is None
    True
    """
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))
