"""What a reply counts as: one of the admissible answers, or normalised free text.

With T(c) the first tokens of the spellings of choice c, and z the logits of the reply's first
token, the probability of c among the admissible answers is

    p_c = sum_{t in T(c)} exp z_t / sum_{c'} sum_{t in T(c')} exp z_t .

A reply to a closed question counts as the choice that its most probable first token begins. Free
text, and replies to questions whose choices begin alike, are read in full and compared after
`normalise`; the confidence of such a reply is the least margin among its tokens.
"""

import re
import unicodedata
from typing import Any

import torch
from torch import Tensor

from lofi_core.evaluation.questions import Question

__all__ = ["judge", "least_margin", "normalise"]

_ARTICLES = {"a", "an", "the"}
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)}


def judge(
    tokenizer: Any,
    q: Question,
    first: list[list[int]],
    logits: Tensor,
    text: str,
    margin: float | None = None,
) -> dict[str, Any]:
    """Score a reply.

    Parameters
    ----------
    tokenizer : tokenizer
        Of the model.
    q : Question
    first : list of list of int
        The question's `lofi_core.evaluation.questions.spellings`; empty if the reply is read in
        full.
    logits : Tensor, shape (V,)
        Of the reply's first token.
    text : str
        The reply, where it is read in full.
    margin : float, optional
        Confidence of such a reply, see `least_margin`.

    Returns
    -------
    dict
        ``predicted``: the choice that the most probable token begins, or else that token's text;
        in full, the choice that the normalised reply equals, or else that reply. ``right``.
        ``probabilities`` of the choices, and ``margin``, the lead of the largest; an empty list and
        the given margin for a reply read in full.
    """
    if not first:
        reply = normalise(text)
        same = [choice for choice in q.choices if normalise(choice) == reply]
        predicted = same[0] if len(same) == 1 else reply
        accepted = {q.answer} if q.choices else {normalise(q.answer), *q.accepted}
        return {
            "predicted": predicted,
            "right": predicted in accepted,
            "probabilities": [],
            "margin": margin,
        }
    top = int(logits.argmax())
    begun = [choice for choice, ids in zip(q.choices, first, strict=True) if top in ids]
    predicted = begun[0] if begun else tokenizer.decode([top]).strip()
    mass = torch.stack([logits[ids].double().logsumexp(0) for ids in first])
    probabilities = mass.softmax(0)
    largest = probabilities.topk(min(2, len(first))).values.tolist()
    return {
        "predicted": predicted,
        "right": predicted == q.answer,
        "probabilities": probabilities.tolist(),
        "margin": largest[0] - sum(largest[1:]),
    }


def least_margin(logits: Tensor, length: int) -> float:
    """Smallest lead of the most probable token over the next, along a reply.

    Parameters
    ----------
    logits : Tensor, shape (T, V)
        One row per generated token.
    length : int in [1, T]
        Tokens of the reply, its end token included.
    """
    largest = logits[:length].double().softmax(-1).topk(2, dim=-1).values
    return float((largest[:, 0] - largest[:, 1]).min())


def normalise(text: str) -> str:
    """Bring an answer into a form in which equal means the same.

    In this order: Unicode NFKC and case folding; commas between a digit and three digits go; every
    character other than a letter, mark or digit becomes a space, but for a point between digits and
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
