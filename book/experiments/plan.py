"""What is run: every arm, in groups, and the data they are run on.

An *arm* is one way of asking: a pruner with all its parameters, or the unpruned model under other
numerical conditions. Arms are compared with the unpruned model on the same scenes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from book.experiments.variants import variants
from lofi_core.errors import LofiError
from lofi_core.pruners import IPRBudget, LoFi, Pruner, Random, get_pruner, registered
from lofi_core.pruners.clip import ClipPruner
from lofi_core.pruners.inside import InsidePruner, mean_tokens

__all__ = ["BUDGETS", "SCENES", "SEEDS", "SITE_SCENES", "VISUAL", "Arm", "plan"]

BUDGETS = (0.75, 0.5, 0.33, 0.22, 0.11, 0.05)
CHOICE_BUDGETS = (0.5, 0.22, 0.11)  # of variants, on the validation split
SEEDS = (0, 1, 2, 3, 4)  # of random controls
SCENES = {"test": 1000, "validation": 400}
SITE_SCENES = 200  # the first of the test split, where representations are measured
VISUAL, LAYERS = 144, 4  # visual tokens and layers of the shipped model

# Published settings are for 32 layers; here the first drop comes before layer 1 of 4, or no budget
# below a half could be met. The published signs are for CLIPs trained on whole images; this one's
# patches learnt to match text.
SETTINGS: dict[str, dict[str, Any]] = {
    "fastv": {"layer": 1},
    "dart": {"layer": 1, "max_tokens": None},
    "pyramiddrop": {"layers": (1, 2, 3)},
    "lofi-inside": {"layer": 1},
    "sparsevlm": {"after": (0, 1, 2)},
    "sparsevlm+": {"after": (0, 1, 2), "head_dim": 32},
    "trim": {"sign": 1},
    "cdpruner": {"sign": 1},
}

How = Literal["packed", "conditioned", "inside", "rows", "single", "padded", "small", "model"]


@dataclass(frozen=True)
class Arm:
    """One way of asking.

    Parameters
    ----------
    group : {"reference", "noise", "main", "chosen", "dynamic", "ablation"}
        What the arm is for.
    label : str
        A name, unique within group and budget but for random seeds.
    pruner : Pruner
        What prunes; one that keeps everything for the unpruned model.
    budget : float, optional
        Share of the visual tokens asked for.
    how : str
        "packed": all questions behind one image. "conditioned": a row a question, chosen for each.
        "inside": a row a question, pruned inside the language model. The others are numerical
        conditions: "rows", "single" and "padded" ask one question a row, one at a time, with
        padding; "small" in batches of fewer images; "model" with another dtype or back-end.
    split : {"test", "validation"}
        Of SceneVQA.
    axis : str
        Of an ablation: what is varied.
    """

    group: str
    label: str
    pruner: Pruner
    budget: float | None = None
    how: How = "packed"
    split: str = "test"
    axis: str = ""

    @property
    def seed(self) -> int | None:
        """The pruner's seed."""
        pruner = self.pruner
        return pruner.seed if isinstance(pruner, Random) and pruner.keep != 1 else None

    @property
    def measured(self) -> bool:
        """Whether representations are measured, site by site."""
        return (
            self.how == "packed"
            and self.split == "test"
            and self.group in ("reference", "main", "chosen")
            and (self.seed or 0) < 2
        )


def _main() -> Iterator[Arm]:
    for kind in registered():
        settings = SETTINGS.get(kind.name, {})
        for budget in BUDGETS:
            seeds = [{"seed": s} for s in SEEDS] if kind is Random else [{}]
            for seed in seeds:
                pruner = get_pruner(kind.name, keep=budget, **settings, **seed)
                how: How = "packed"
                if isinstance(pruner, ClipPruner):
                    how = "conditioned"
                if isinstance(pruner, InsidePruner):
                    how = "inside"
                    if not _possible(pruner):
                        continue
                yield Arm("main", kind.name, pruner, budget, how)


def _possible(pruner: InsidePruner) -> bool:
    """Whether a model as shallow as the shipped one can meet the budget, and nearly use it up."""
    try:
        stages = pruner.schedule(VISUAL, LAYERS)
    except LofiError:
        return False
    assert pruner.keep is not None
    return abs(mean_tokens(VISUAL, stages, LAYERS) / VISUAL - pruner.keep) < 0.03


def _noise() -> Iterator[Arm]:
    for label, how in (
        ("other batches", "small"),
        ("one question a row", "rows"),
        ("one question at a time", "single"),
        ("padding", "padded"),
        ("eager attention", "model"),
        ("bfloat16", "model"),
        ("float64", "model"),
    ):
        yield Arm("noise", label, Random(keep=1.0), how=how)  # type: ignore[arg-type]


def _dynamic() -> Iterator[Arm]:
    for budget in (0.5, 0.33, 0.22, 0.11):
        rule = IPRBudget(mean=budget)
        for name in ("lofi", "deflated-lofi", "random"):
            yield Arm("dynamic", f"{name} dynamic", get_pruner(name, keep=rule), budget)
    for eps in (0.05, 0.1, 0.2):
        yield Arm("dynamic", f"lofi eps {eps:g}", LoFi(keep=IPRBudget(eps=eps)))


CHOSEN = ("k = 32", "deflated, energies, merged")
"""The best variant of one score a token, and of all, on validation: see `best_variants`."""


def plan() -> list[Arm]:
    """List all arms, test split first; the unpruned model leads each split."""
    full = Random(keep=1.0)
    arms = [Arm("reference", "unpruned", full), *_noise(), *_main()]
    for budget in BUDGETS:
        for _, label, pruner in variants(budget):
            if label in CHOSEN:
                arms.append(Arm("chosen", label, pruner, budget))
    arms += _dynamic()
    arms.append(Arm("reference", "unpruned", full, split="validation"))
    for budget in CHOICE_BUDGETS:
        for axis, label, pruner in variants(budget):
            arms.append(Arm("ablation", label, pruner, budget, split="validation", axis=axis))
    return arms
