"""Tidy tables from compact ones: what is derived, and never stored."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from book.experiments.compact import NOT_ADMISSIBLE, probability_matrix
from lofi_core.evaluation.divergence import jensen_shannon, lead, total_variation
from lofi_core.scenes.vqa import SceneVQA

__all__ = ["TRANSITIONS", "answer_table", "question_table", "site_table"]

NONE_OF_THEM = "(none of the choices)"
TRANSITIONS = (
    *("same right", "same wrong", "right to wrong"),
    *("wrong to right", "wrong to other"),
)
FACTS = ("split", "group", "pruner", "label", "axis", "budget", "seed")
IPRS = ("ipr", "ipr_centered", "amplitude_ipr", "amplitude_ipr_centered")


def question_table(scenes: dict[str, int]) -> pd.DataFrame:
    """All questions of the first scenes of each split, indexed by split, image and number.

    ``size`` is that of the smallest object asked about, "none" where a question is about no object.
    """
    rows: list[dict[str, Any]] = []
    for split, count in scenes.items():
        data = SceneVQA(split, 0)
        for image in range(count):
            objects, questions = data.describe(image)
            for number, q in enumerate(questions):
                about = [objects[i] for i in q.about]
                rows.append(
                    {
                        "split": split,
                        "image": image,
                        "number": number,
                        "scene": f"{split}-0-{image}",
                        "family": q.family,
                        "question": q.text,
                        "answer": q.answer,
                        "choices": q.choices,
                        "chance": 1 / len(q.choices),
                        "size": min(about, key=lambda o: o.radius).size if about else "none",
                    }
                )
    return pd.DataFrame(rows).set_index(["split", "image", "number"])


def answer_table(
    answers: pa.Table, arms: pd.DataFrame, questions: pd.DataFrame, images: pd.DataFrame
) -> pd.DataFrame:
    """One row an arm and question, beside what the unpruned model answered.

    Returns
    -------
    DataFrame
        Facts of the arm and the question (categorical where they are words); ``predicted``,
        ``right``, ``margin``, ``tokens``, ``budget_measured``; ``reference_right``,
        ``reference_margin``, ``flip``, ``transition``, ``jensen_shannon``, ``total_variation``,
        ``margin_change``; where measured, ``hidden_distance`` and ``text_ipr_change``.
    """
    parts = []
    for split, mine in arms.groupby("split", sort=False):
        rows = answers.filter(pc.is_in(answers["arm"], pa.array(mine.index, pa.int16())))
        known = questions.loc[split].sort_index()
        reference = int(mine.index[mine["group"] == "reference"][0])
        parts.append(_split_answers(rows, reference, known))
    table = pd.concat(parts, ignore_index=True)
    for column in ("scene", "family", "size", "predicted"):
        table[column] = table[column].astype("category")
    for column in FACTS:
        values = arms[column]
        words = values.astype("category") if values.dtype in (object, "str") else values
        table[column] = words.reindex(table["arm"]).array
    each = images[images["number"] >= 0].set_index(["arm", "image", "number"])["tokens"]
    whole = images[images["number"] < 0].set_index(["arm", "image"])["tokens"]
    keys = pd.MultiIndex.from_frame(table[["arm", "image", "number"]])
    tokens = pd.Series(whole.reindex(keys.droplevel(2)).to_numpy())
    table["tokens"] = tokens.fillna(pd.Series(each.reindex(keys).to_numpy()))
    full = table["arm"].map(_full_counts(arms, images))
    table["budget_measured"] = table["tokens"] / full
    return table


def _full_counts(arms: pd.DataFrame, images: pd.DataFrame) -> dict[int, float]:
    """Visual tokens an image has, unpruned, for each arm."""
    counts = images.groupby("arm")["tokens"].mean()
    references = arms[arms["group"] == "reference"]
    by_split = {split: counts[arm] for arm, split in references["split"].items()}
    return {arm: by_split[split] for arm, split in arms["split"].items()}


def _split_answers(answers: pa.Table, reference: int, known: pd.DataFrame) -> pd.DataFrame:
    per_image = int(known.index.get_level_values("number").max()) + 1
    number = answers["number"].to_numpy().astype(int)
    place = answers["image"].to_numpy().astype(int) * per_image + number  # row of `known`
    code = answers["predicted"].to_numpy().astype(int)
    p = probability_matrix(answers)
    arm = answers["arm"].to_numpy()

    mine = arm == reference
    where = np.full(len(known), -1)
    where[place[mine]] = np.flatnonzero(mine)
    base = where[place]  # row of the unpruned model's answer
    q, p = p, p[base]
    top = p.argmax(1)
    truth = np.array(
        [row.choices.index(row.answer) for row in known[["choices", "answer"]].itertuples()]
    )[place]
    right, still_right = code[base] == truth, code == truth
    flip = code != code[base]
    kind = np.select(
        [~flip & right, ~flip, right & ~still_right, still_right], [0, 1, 2, 3], default=4
    )
    choices = np.full((len(known), p.shape[1] + 1), NONE_OF_THEM, dtype=object)
    for i, words in enumerate(known["choices"]):
        choices[i, : len(words)] = words
    words = choices[place, np.where(code == NOT_ADMISSIBLE, p.shape[1], code)]

    def fact(column: str) -> pd.Categorical:
        return known[column].astype("category").array[place]

    return pd.DataFrame(
        {
            "arm": arm,
            "image": answers["image"].to_numpy(),
            "number": number.astype(np.int8),
            "scene": fact("scene"),
            "family": fact("family"),
            "size": fact("size"),
            "predicted": pd.Categorical(words),
            "right": still_right,
            "margin": lead(q, q.argmax(1)),
            "reference_right": right,
            "reference_margin": lead(p, top),
            "flip": flip,
            "transition": pd.Categorical.from_codes(kind, list(TRANSITIONS)),
            "jensen_shannon": jensen_shannon(p, q),
            "total_variation": total_variation(p, q),
            "margin_change": lead(q, top) - lead(p, top),
            "hidden_distance": answers["hidden_distance"].to_numpy(),
            "text_ipr_change": answers["text_ipr_change"].to_numpy(),
        }
    )


def site_table(sites: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """One row an arm, image, site and kind of token, with the unpruned model's IPRs beside.

    ``X_before`` is the unpruned model's, ``X_change`` the relative change, for each IPR X;
    ``effective_rank`` is that of the centred tokens, ``1 / ipr_centered``.
    """
    keys = ["split", "image", "site", "tokens"]
    for column in FACTS:
        values = arms[column]
        words = values.astype("category") if values.dtype in (object, "str") else values
        sites[column] = words.reindex(sites["arm"]).array
    reference = sites[sites["group"] == "reference"][[*keys, *IPRS]]
    table = sites.merge(reference, on=keys, suffixes=("", "_before"), validate="many_to_one")
    for name in IPRS:
        table[f"{name}_change"] = table[name] / table[f"{name}_before"] - 1
    table["effective_rank"] = 1 / table["ipr_centered"]
    return table
