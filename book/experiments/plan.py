"""What is run: every arm, in groups, and the data they are run on.

An arm is a pruner with all its parameters, or the unpruned model under another numerical condition
(`lofi_core.evaluation.arms`). Arms are compared with the unpruned model on the same scenes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from book.experiments.variants import variants
from lofi_core.errors import LofiError
from lofi_core.evaluation.arms import AS_IS, UNPRUNED, Arm, Condition
from lofi_core.pruners import IPRBudget, LoFi, Pruner, Random, get_pruner, registered
from lofi_core.pruners.clip import ClipPruner
from lofi_core.pruners.inside import InsidePruner, mean_tokens

__all__ = ["BUDGETS", "SCENES", "SEEDS", "SITE_SCENES", "VISUAL", "Planned", "plan"]

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


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An arm of the plan.

    Parameters
    ----------
    group : {"reference", "noise", "main", "chosen", "dynamic", "ablation"}
        What the arm is for.
    label : str
        A name, unique within group and budget but for random seeds.
    pruner : Pruner
    condition : Condition
    budget : float, optional
        Share of the visual tokens asked for.
    split : {"test", "validation"}
        Of SceneVQA.
    axis : str
        Of an ablation: what is varied.
    """

    group: str
    label: str
    pruner: Pruner = UNPRUNED
    condition: Condition = AS_IS
    budget: float | None = None
    split: str = "test"
    axis: str = ""

    @property
    def arm(self) -> Arm:
        """How the questions are asked; representations are measured on some arms only."""
        measured = (
            self.condition == AS_IS
            and self.how == "image"
            and self.split == "test"
            and self.group in ("reference", "main", "chosen")
            and (self.seed or 0) < 2
        )
        images = SITE_SCENES if measured else 0
        return Arm(pruner=self.pruner, condition=self.condition, measured=images)

    @property
    def seed(self) -> int | None:
        """The pruner's seed."""
        pruner = self.pruner
        return pruner.seed if isinstance(pruner, Random) and pruner.keep != 1 else None

    @property
    def how(self) -> str:
        """Where and for what tokens are chosen: "inside", by "question", or by "image"."""
        if isinstance(self.pruner, InsidePruner):
            return "inside"
        return "question" if isinstance(self.pruner, ClipPruner) else "image"


def _main() -> Iterator[Planned]:
    for kind in registered():
        settings = SETTINGS.get(kind.name, {})
        for budget in BUDGETS:
            seeds = [{"seed": s} for s in SEEDS] if kind is Random else [{}]
            for seed in seeds:
                pruner = get_pruner(kind.name, keep=budget, **settings, **seed)
                if isinstance(pruner, InsidePruner) and not _possible(pruner):
                    continue
                yield Planned(group="main", label=kind.name, pruner=pruner, budget=budget)


def _possible(pruner: InsidePruner) -> bool:
    """Whether a model as shallow as the shipped one can meet the budget, and nearly use it up."""
    try:
        stages = pruner.schedule(VISUAL, LAYERS)
    except LofiError:
        return False
    assert pruner.keep is not None
    return abs(mean_tokens(VISUAL, stages, LAYERS) / VISUAL - pruner.keep) < 0.03


NOISE = {
    "other batches": Condition(images_per_batch=3),
    "one question a row": Condition(packed=False),
    "one question at a time": Condition(packed=False, questions_per_batch=1),
    "padding": Condition(packed=False, padding=32),
    "eager attention": Condition(attention="eager"),
    "bfloat16": Condition(dtype="bfloat16"),
    "float64": Condition(dtype="float64"),
}


def _noise() -> Iterator[Planned]:
    for label, condition in NOISE.items():
        yield Planned(group="noise", label=label, condition=condition)


def _dynamic() -> Iterator[Planned]:
    for budget in (0.5, 0.33, 0.22, 0.11):
        rule = IPRBudget(mean=budget)
        for name in ("lofi", "deflated-lofi", "random"):
            pruner = get_pruner(name, keep=rule)
            yield Planned(group="dynamic", label=f"{name} dynamic", pruner=pruner, budget=budget)
    for eps in (0.05, 0.1, 0.2):
        rule = IPRBudget(eps=eps)
        yield Planned(group="dynamic", label=f"lofi eps {eps:g}", pruner=LoFi(keep=rule))


CHOSEN = ("k = 32", "deflated, energies, merged")
"""The best variant of one score a token, and of all, on validation: see `best_variants`."""


def plan() -> list[Planned]:
    """List all arms, test split first; the unpruned model leads each split."""
    arms = [Planned(group="reference", label="unpruned"), *_noise(), *_main()]
    for budget in BUDGETS:
        for _, label, pruner in variants(budget):
            if label in CHOSEN:
                arms.append(Planned(group="chosen", label=label, pruner=pruner, budget=budget))
    arms += _dynamic()
    arms.append(Planned(group="reference", label="unpruned", split="validation"))
    for budget in CHOICE_BUDGETS:
        for axis, label, pruner in variants(budget):
            facts: dict[str, Any] = {"label": label, "budget": budget, "axis": axis}
            arm = Planned(group="ablation", pruner=pruner, split="validation", **facts)
            arms.append(arm)
    return arms
