"""What a model's reply counts as: one of the admissible answers, or free text.

Models spell the same answer in several ways: "yes", " Yes". With T(c) the first tokens of the
spellings of choice c, and z the logits of the reply's first token, its probability among the
admissible answers is

    p_c = sum_{t in T(c)} exp z_t / sum_{c'} sum_{t in T(c')} exp z_t .

A question without admissible answers is answered in words, which
`lofi_core.evaluation.free_text.normalise` brings into one form.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.evaluation.free_text import normalise
from lofi_core.scenes.questions import Question

__all__ = ["OpenQuestion", "judge", "spellings"]


@dataclass(frozen=True)
class OpenQuestion(Question):
    """A question answered in free text; ``choices`` is empty.

    Parameters
    ----------
    accepted : tuple of str
        What else than ``answer`` is right, normalised.
    """

    accepted: tuple[str, ...] = ()


def spellings(tokenizer: Any, q: Question) -> list[list[int]]:
    """First tokens with which each of a question's choices may begin; empty for an open question.

    A choice may be capitalised, and a space may stand before it. Tokens that begin two choices, and
    those that stand for unknown words, tell nothing and are left out.

    Raises
    ------
    LofiError
        If nothing is left of a choice.
    """
    forms = [
        {space + word for word in (choice, choice.capitalize()) for space in ("", " ")}
        if choice.islower()
        else {choice, f" {choice}"}
        for choice in q.choices
    ]
    encoded = [
        {tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in sorted(spelt)}
        for spelt in forms
    ]
    own = [
        sorted(ids - {tokenizer.unk_token_id}.union(*(encoded[:c] + encoded[c + 1 :])))
        for c, ids in enumerate(encoded)
    ]
    if not all(own):
        raise LofiError(
            f"spellings: among {q.choices}, some share their first token with others; expected "
            "each to have one of its own: ask it as a question without choices"
        )
    return own


def judge(
    tokenizer: Any, q: Question, ids: list[list[int]], logits: Tensor, text: str
) -> dict[str, Any]:
    """Score a reply.

    Parameters
    ----------
    tokenizer : tokenizer
        Of the model.
    q : Question
        The question.
    ids : list of list of int
        Its `spellings`.
    logits : Tensor, shape (V,)
        Of the reply's first token.
    text : str
        The reply; read for open questions only.

    Returns
    -------
    dict
        ``predicted``: the choice that the most probable token begins, or else its text; for an open
        question the normalised reply. ``right``. ``probabilities`` of the choices and ``margin``,
        the lead of the largest; an empty list and None for an open question.
    """
    if not q.choices:
        predicted = normalise(text)
        right = predicted in {normalise(q.answer), *getattr(q, "accepted", ())}
        return {"predicted": predicted, "right": right, "probabilities": [], "margin": None}
    top = int(logits.argmax())
    found = [choice for choice, mine in zip(q.choices, ids, strict=True) if top in mine]
    predicted = found[0] if found else tokenizer.decode([top]).strip()
    probabilities = torch.stack([logits[mine].logsumexp(0) for mine in ids]).softmax(0)
    largest = probabilities.topk(min(2, len(ids))).values.tolist()
    return {
        "predicted": predicted,
        "right": predicted == q.answer,
        "probabilities": probabilities.tolist(),
        "margin": largest[0] - sum(largest[1:]),
    }
