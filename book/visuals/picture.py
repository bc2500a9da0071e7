"""Draw the picture of the first page and of the README, `book/static/flip.png`, by a run.

    python -m book.visuals.picture

Of all answers that the shipped model gets right and, at the quarter of the tokens that LoFi keeps,
wrong, it shows the one that is most decided before and after; below it stands what happened to all
answers together.
"""

import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lofi_core import LoFi, SceneVQA, ask, plots, prune_inputs, scene_vlm
from lofi_core.evaluation.questions import Scene
from lofi_core.vlm.prompts import chat_inputs

TARGET = Path(__file__).resolve().parents[1] / "static" / "flip.png"
SCENES = 100
KEEP = 0.25
RIGHT, WRONG = "#0173b2", "#d55e00"  # of seaborn's colour-blind palette


def main() -> None:
    """Ask, choose, draw, and write the file."""
    plots.style()
    model, processor = scene_vlm.load()
    scenes = [SceneVQA("test")[i] for i in range(SCENES)]
    before, after = (ask(model, processor, scenes, p) for p in (None, LoFi(keep=KEEP)))
    lost = before.index[before.right & ~after.right]
    decided = [min(max(t.probabilities[i]) for t in (before, after)) for i in lost]
    chosen = int(lost[int(np.argmax(decided))])
    number, place = divmod(chosen, len(scenes[0].questions))
    question = scenes[number].questions[place]
    inputs = chat_inputs(processor, [(scenes[number].image, question.text)])
    image = prune_inputs(model, inputs, LoFi(keep=KEEP)).report.images[0]
    figure = draw(scenes[number], question.text, image, before.loc[chosen], after.loc[chosen])
    figure.text(0.5, 0.02, totals(before, after), ha="center", fontsize=16, linespacing=1.5)
    figure.savefig(TARGET, dpi=160, facecolor="white")
    print(TARGET)


def totals(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """Say what an accuracy table reports, and what it does not."""
    lost = before.right.sum() - after.right.sum()
    flipped = (before.predicted != after.predicted).sum()
    return (
        f"Over {len(before)} questions, accuracy shows a loss of {lost} answers.\n"
        f"In fact, {flipped} answers have changed."
    )


def draw(scene: Scene, question: str, image: object, before: pd.Series, after: pd.Series) -> Figure:
    """Draw the scene with all patches and with the kept ones, an answer below each."""
    kept, grid = image.kept, image.grids[0]  # type: ignore[attr-defined]
    figure = plt.figure(figsize=(7.4, 5.7), layout="none")
    words = "\n".join(textwrap.wrap(question, 50))
    figure.text(0.5, 0.94, words, ha="center", va="center", fontsize=19, weight="bold")
    panels = [
        (0.05, range(grid[0] * grid[1]), before, "all visual tokens"),
        (0.55, kept, after, f"the {len(kept)} of {grid[0] * grid[1]} that LoFi keeps"),
    ]
    for left, patches, row, label in panels:
        ax = figure.add_axes((left, 0.36, 0.4, 0.52))
        plots.show_kept(scene.image, patches, grid, ax=ax, dim=0.9)
        color = RIGHT if row.right else WRONG
        middle = left + 0.2
        figure.text(middle, 0.325, label, ha="center", va="center", fontsize=15, color="#444444")
        mark = "✓" if row.right else "✗"
        said = f"“{row.predicted}” {mark}"
        figure.text(middle, 0.25, said, ha="center", va="center", fontsize=26, color=color)
        figure.text(
            middle,
            0.185,
            f"{max(row.probabilities):.0%} sure",
            ha="center",
            va="center",
            fontsize=15,
            color=color,
        )
    figure.text(0.5, 0.62, "→", ha="center", va="center", fontsize=26, color="#444444")
    return figure


if __name__ == "__main__":
    main()
