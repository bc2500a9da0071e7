"""Replies: spellings of choices, and free text."""

import math

import pytest
import torch

from lofi_core import SceneVQA, scene_vlm
from lofi_core.errors import LofiError
from lofi_core.evaluation.questions import Question, spellings
from lofi_core.evaluation.replies import judge


class Words:
    """A tokenizer of few words, which keep the space before them; 0 is unknown."""

    unk_token_id = 0
    words = ("?", "yes", " yes", "Yes", "no", " No", "A", " A", "B", "maybe", " ")

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        if text in self.words:
            return {"input_ids": [self.words.index(text)]}
        return {"input_ids": [self.words.index(" ") if text.startswith(" ") else 0]}

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)


YES_NO = Question("f", "?", "no", ("yes", "no"), ())


def test_spellings() -> None:
    # " Yes" and " no" begin with the space alone, which tells nothing
    assert spellings(Words(), YES_NO) == [[1, 2, 3], [4, 5]]
    assert spellings(Words(), Question("f", "?", "A", ("A", "B"), ())) == [[6, 7], [8, 10]]
    assert spellings(Words(), Question("f", "?", "x")) == []
    # nothing is left of "unknown": the reply has to be read in full
    assert spellings(Words(), Question("f", "?", "yes", ("yes", "unknown"), ())) == []


def test_probability_of_a_choice_sums_over_its_spellings() -> None:
    p = torch.tensor([0.1, 0.2, 0.05, 0.15, 0.05, 0.3, 0.0, 0.0, 0.0, 0.15, 0.0])
    found = judge(Words(), YES_NO, spellings(Words(), YES_NO), p.log(), "")
    assert found["probabilities"] == pytest.approx([0.4 / 0.75, 0.35 / 0.75])
    assert found["margin"] == pytest.approx(0.05 / 0.75)
    # what it would say first is " No", although "yes" is more probable over all spellings
    assert found["predicted"] == "no" and found["right"]
    p[9] = 1.0
    aside = judge(Words(), YES_NO, spellings(Words(), YES_NO), p.log(), "")
    assert aside["predicted"] == "maybe" and not aside["right"]


def test_free_text_is_normalised() -> None:
    q = Question("f", "?", "nokia", accepted=("hp",))
    for text, right in (("The Nokia.", True), (" HP", True), ("sony", False), ("", False)):
        found = judge(Words(), q, [], torch.zeros(11), text)
        assert found["right"] is right
        assert found["probabilities"] == [] and found["margin"] is None
    assert judge(Words(), q, [], torch.zeros(11), "The Nokia.")["predicted"] == "nokia"


def test_choices_that_begin_alike_are_read_in_full() -> None:
    q = Question("f", "?", "cross", ("circle", "cross"))
    for text, predicted in ((" Cross.", "cross"), ("The circle", "circle"), ("cress", "cress")):
        found = judge(Words(), q, [], torch.zeros(11), text, 0.5)
        assert (found["predicted"], found["right"]) == (predicted, predicted == "cross")
        assert found["probabilities"] == [] and found["margin"] == 0.5


def test_questions_that_no_reply_could_settle() -> None:
    for given in (("f", " ", "x"), ("f", "?", "no", ("a", "b")), ("f", "?", "a", ("a", "a"))):
        with pytest.raises(LofiError, match="Question: "):
            Question(*given)
    assert Question("f", "?", "", ("a", "b")).answer == ""  # not known


def test_scene_vqa_has_one_spelling_a_choice() -> None:
    """Its tokenizer knows words in one form, so probabilities are those of first tokens."""
    _, processor = scene_vlm.load()
    for i in range(20):
        for q in SceneVQA("validation")[i].questions:
            ids = spellings(processor.tokenizer, q)
            known = [
                processor.tokenizer(c, add_special_tokens=False)["input_ids"] for c in q.choices
            ]
            assert ids == known
            logits = torch.linspace(-1, 1, len(processor.tokenizer))
            p = judge(processor.tokenizer, q, ids, logits, "")["probabilities"]
            assert math.isclose(sum(p), 1, rel_tol=1e-6)
