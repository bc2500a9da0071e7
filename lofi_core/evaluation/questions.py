"""Questions about images, and the one rule that says which reply counts as which answer.

Models spell the same answer in several ways: "yes", " Yes". T(c), the first tokens of the accepted
spellings of choice c, decides what a reply means (`lofi_core.evaluation.replies`). Where first
tokens do not tell the choices apart, the reply is read in full.
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

    def __post_init__(self) -> None:
        """Refuse a question that no reply could settle."""
        if not self.text.strip():
            raise LofiError("Question: the text is empty; expected what the model is to be asked")
        if len(set(self.choices)) < len(self.choices) or not all(self.choices):
            raise LofiError(f"Question: choices {self.choices}; expected different ones, not empty")
        if self.choices and self.answer not in ("", *self.choices):
            raise LofiError(
                f"Question: answer {self.answer!r} to {self.text!r}; expected one of the choices, "
                f"{self.choices}, or an empty string if it is not known"
            )


@dataclass(frozen=True)
class Scene:
    """One image with the questions about it. ``id`` is unique within the data."""

    id: str
    image: Image.Image
    questions: tuple[Question, ...]


def spellings(tokenizer: Any, q: Question) -> list[list[int]]:
    """First tokens with which each of a question's choices may begin.

    A choice may be capitalised, and a space may stand before it. Tokens that begin two choices, and
    those that stand for unknown words, decide nothing and are left out.

    Returns
    -------
    list of list of int
        One list per choice. An empty list for free text, and if no token is left for some choice:
        then the reply has to be read in full.
    """
    begins = [
        {tokenizer(form, add_special_tokens=False)["input_ids"][0] for form in _forms(choice)}
        for choice in q.choices
    ]
    distinct = [
        sorted(ids - {tokenizer.unk_token_id}.union(*begins[:c], *begins[c + 1 :]))
        for c, ids in enumerate(begins)
    ]
    return distinct if all(distinct) else []


def _forms(choice: str) -> set[str]:
    words = {choice, choice.capitalize()} if choice.islower() else {choice}
    return words | {f" {word}" for word in words}
