"""Questions about images, and the one rule that says which reply counts as which answer.

Models spell the same answer in several ways: "yes", " Yes". T(c), the first tokens of the accepted
spellings of choice c, decides what a reply means (`lofi_core.evaluation.replies`).
"""

from dataclasses import dataclass
from typing import Any

from PIL import Image

from lofi_core.errors import LofiError

__all__ = ["Question", "Scene", "spellings"]


@dataclass(frozen=True)
class Question:
    """A question with its true answer.

    Parameters
    ----------
    family : str
        What kind of question it is; results are grouped by it.
    text : str
    answer : str
        The true answer; empty if it is not known, which consistency does not need.
    choices : tuple of str
        All admissible answers. Empty for a question that is answered in free text.
    about : tuple of int
        Which of the scene's objects it is about, where these are known.
    accepted : tuple of str
        What else than ``answer`` is right for a free-text question, normalised.
    """

    family: str
    text: str
    answer: str
    choices: tuple[str, ...] = ()
    about: tuple[int, ...] = ()
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """One image with the questions about it. ``id`` is unique within the data."""

    id: str
    image: Image.Image
    questions: tuple[Question, ...]


def spellings(tokenizer: Any, q: Question) -> list[list[int]]:
    """First tokens with which each of a question's choices may begin; empty for free text.

    A choice may be capitalised, and a space may stand before it. Tokens that begin two choices, and
    those that stand for unknown words, decide nothing and are left out.

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
    distinct = [
        sorted(ids - {tokenizer.unk_token_id}.union(*(encoded[:c] + encoded[c + 1 :])))
        for c, ids in enumerate(encoded)
    ]
    if not all(distinct):
        raise LofiError(
            f"spellings: among {q.choices}, some share their first token with others; expected "
            "each to have one of its own: ask it as a question without choices"
        )
    return distinct
