"""The figures that claims are judged by, computed from the committed results.

A key names a figure, such as ``lofi.lead.random``; `METRICS` holds what computes it. ``@22`` means
22 % of the visual tokens; a key without a budget is a mean over `BUDGETS`. Everything is a function
of the means of arms, so one bootstrap over images serves all: every figure, however nested, is
computed once for the images as they are and once for each sample of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lofi_core.prediction import arm_correlation, flip_auc, shuffled
from lofi_core.pruners import get_pruner, pruner_names
from lofi_core.statistics import holm

__all__ = ["BUDGETS", "KINDS", "METRICS", "Evidence", "Figure", "NoData", "compute"]

BUDGETS = (0.5, 0.33, 0.22, 0.11)
FIELD = (0.33, 0.22, 0.11)  # 192, 128 and 64 of 576 tokens
FURTHEST = 0.02  # of the measured from the asked budget; arms beyond are not compared
DRAWS, DRAWS_PER_ANSWER, SEED = 1000, 200, 0

KINDS: dict[str, tuple[str, ...]] = {
    "attention": ("fastervlm", "visionzip", "vispruner", "hired", "prumerge", "prumerge+"),
    "inside": ("fastv", "pyramiddrop", "sparsevlm", "sparsevlm+"),
    "diversity": ("divprune", "dart", "cdpruner"),
    "merging": ("tome",),
    "text": ("trim",),
    "low_rank": ("lrcp",),
}
"""The published methods, by what they rank tokens by or where they act."""

PUBLISHED = tuple(name for names in KINDS.values() for name in names)


class NoData(Exception):
    """The results hold nothing that the figure could be computed from."""


@dataclass(frozen=True)
class Figure:
    """A number with its 95 % interval, and what it rests on.

    ``n`` counts what was counted (answers, arms, cases), ``images`` what was resampled. Without
    sampling error, both limits are the value.
    """

    value: float
    low: float
    high: float
    n: int
    images: int
    unit: str
    what: str
    model: str
    dtype: str
    device: str

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Means:
    """Means of arms over questions, for the images as they are and for samples of them.

    A cell is ``(group, label, budget)``, over all seeds; the first row of an array is the images as
    they are.
    """

    QUANTITIES = (
        "agreement",
        "flip",
        "right_to_wrong",
        "wrong_to_right",
        "accuracy_change",
        "total_variation",
        "deviation",
    )

    def __init__(self, answers: pd.DataFrame, draws: int = DRAWS, seed: int = SEED) -> None:
        budget = answers["budget"].fillna(1.0)
        kind, flip = answers["transition"], answers["flip"].astype(float)
        right = answers["right"].astype(float) - answers["reference_right"].astype(float)
        table = pd.DataFrame(
            {
                "group": answers["group"].astype(str),
                "label": answers["label"].astype(str),
                "budget": budget.round(4),
                "image": answers["image"],
                "agreement": 1 - flip,
                "flip": flip,
                "right_to_wrong": (kind == "right to wrong").astype(float),
                "wrong_to_right": (kind == "wrong to right").astype(float),
                "accuracy_change": right,
                "total_variation": answers["total_variation"].astype(float),
                "deviation": answers["budget_measured"].astype(float) - budget,
                "count": 1.0,
            }
        )
        sums = table.groupby(["image", "group", "label", "budget"]).sum()
        wide = sums.unstack(["group", "label", "budget"], fill_value=0.0)
        self.images = len(wide)
        times = np.random.default_rng(seed).multinomial(
            self.images, np.full(self.images, 1 / self.images), size=draws
        )
        times = np.vstack([np.ones(self.images), times])
        count = wide["count"]
        self.cells = {cell: i for i, cell in enumerate(count.columns)}
        self.asked = count.to_numpy().sum(0)
        number = times @ count.to_numpy()
        number[number == 0] = np.nan
        self.sums = {q: wide[q][count.columns].to_numpy() for q in self.QUANTITIES}
        self.of = {q: times @ sums / number for q, sums in self.sums.items()}
        self.times, self.counts = times, count.to_numpy()

    def __call__(self, quantity: str, label: str, budget: float, group: str = "main") -> np.ndarray:
        """Mean of one cell, (1 + draws,)."""
        try:
            return self.of[quantity][:, self.cells[group, label, round(budget, 4)]]
        except KeyError:
            raise NoData(f"no {group} arm {label} at {budget}") from None

    def over(
        self, quantity: str, label: str, budgets: Iterable[float] = BUDGETS, group: str = "main"
    ) -> np.ndarray:
        """Mean over budgets, (1 + draws,)."""
        return np.mean([self(quantity, label, b, group) for b in budgets], axis=0)

    def lead(
        self, ahead: str, other: str, budgets: Sequence[float] = BUDGETS, group: str = "main"
    ) -> np.ndarray:
        """Agreement of one minus that of another, on the images that both were asked about."""
        each = []
        for b in (round(budget, 4) for budget in budgets):
            try:
                pair = [self.cells[group, ahead, b], self.cells["main", other, b]]
            except KeyError:
                raise NoData(f"no arms {ahead} and {other} at {b}") from None
            both = (self.counts[:, pair] > 0).all(1)
            sums, counts = (x[both][:, pair] for x in (self.sums["agreement"], self.counts))
            means = (self.times[:, both] @ sums) / (self.times[:, both] @ counts)
            each.append(means[:, 0] - means[:, 1])
        return np.mean(each, axis=0)

    def labels(self, group: str) -> list[str]:
        """Labels of a group's arms."""
        return sorted({label for g, label, _ in self.cells if g == group})

    def fair(self, label: str) -> tuple[float, ...]:
        """Those of the four budgets that a method was run at, and kept to."""
        return tuple(
            b
            for b in BUDGETS
            if ("main", label, b) in self.cells and abs(self("deviation", label, b)[0]) <= FURTHEST
        )

    def published(self, budgets: Sequence[float] = BUDGETS) -> list[str]:
        """Methods of other papers that kept to these budgets."""
        names = [name for name in PUBLISHED if {*budgets} <= {*self.fair(name)}]
        if not names:
            raise NoData(f"no published method at {budgets}")
        return names


class Evidence:
    """Committed results, read when they are needed, and figures in their terms."""

    def __init__(self, results: Any) -> None:
        self.results = results

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row an arm and question of the test split."""
        answers = self.results.answers
        return answers[answers["split"] == "test"]

    @cached_property
    def means(self) -> Means:
        """Means of all arms."""
        return Means(self.answers[self.answers["group"] != "reference"])

    @cached_property
    def spectra(self) -> pd.DataFrame:
        """One row an arm and image: absolute relative IPR changes, and the image's agreement."""
        sites = self.results.sites
        sites = sites[(sites["group"] == "main") & (sites["split"] == "test")]
        if sites.empty:
            raise NoData("no spectra")
        names = sites["site"].astype(str)
        last = max(names[names.str.startswith("layer")], key=lambda s: int(s.split()[1]))
        parts = {
            "projector": ("projector", "visual", "ipr_centered_change"),
            "last": (last, "visual", "ipr_centered_change"),
            "uncentered": (last, "visual", "ipr_change"),
            "text": (last, "text", "ipr_centered_change"),
        }
        keys = ["arm", "image"]
        columns = {
            name: sites[(names == site) & (sites["tokens"] == tokens)].set_index(keys)[column].abs()
            for name, (site, tokens, column) in parts.items()
        }
        table = pd.DataFrame(columns)
        agreement = 1 - self.answers.groupby(keys)["flip"].mean()
        arms = self.results.arms.loc[table.index.get_level_values("arm"), ["label", "budget"]]
        table = table.assign(agreement=agreement, **{c: arms[c].to_numpy() for c in arms})
        table["cell"] = table["label"].astype(str) + table["budget"].map("@{:.2f}".format)
        return table.reset_index()

    @cached_property
    def per_answer(self) -> pd.DataFrame:
        """AUC of telling flips, within arms, by the IPR change and by the unpruned margin."""
        spectra = self.spectra[self.spectra["budget"].isin(BUDGETS)]
        columns = ["arm", "image", "flip", "reference_margin"]
        rows = self.answers[columns].merge(spectra[["arm", "image", "last"]], on=["arm", "image"])
        predictors = pd.DataFrame({"ipr": rows["last"], "margin": -rows["reference_margin"]})
        return flip_auc(
            predictors,
            rows["flip"],
            rows["image"],
            within=rows["arm"],
            against="ipr",
            draws=DRAWS_PER_ANSWER,
            seed=SEED,
        )

    def sampled(
        self, values: np.ndarray, unit: str, what: str, n: int = 0, images: int = 0
    ) -> Figure:
        """Return a figure of (1 + draws,) values of `Means`, by default over all questions."""
        low, high = (float(v) for v in np.quantile(values[1:], [0.025, 0.975]))
        n = n or int(np.median(self.means.asked))  # random has several seeds
        made = self.figure(float(values[0]), low, high, n, images or self.means.images)
        return made(unit, what)

    def row(self, row: Any, unit: str, what: str, prefix: str = "") -> Figure:
        """Return a figure of a row of `lofi_core.prediction`'s tables."""
        names = (
            ("value", "low", "high") if not prefix else (prefix, f"{prefix}_low", f"{prefix}_high")
        )
        value, low, high = (float(row[name]) for name in names)
        return self.figure(value, low, high, int(row["n"]), int(row["groups"]))(unit, what)

    def figure(self, value: float, low: float, high: float, n: int, images: int) -> Any:
        """Fill in what all figures of one run share."""
        run = self.results.experiment
        made_by = {"model": "SceneVLM", "dtype": run["dtype"], "device": run["device"]}
        return lambda unit, what: Figure(value, low, high, n, images, unit, what, **made_by)


Metric = Callable[[Evidence], Figure]
METRICS: dict[str, Metric] = {}


def metric(key: str, *arguments: Any) -> Callable[[Callable[..., Figure]], Callable[..., Figure]]:
    """Register a function of the evidence, with further arguments, under a key."""

    def register(function: Callable[..., Figure]) -> Callable[..., Figure]:
        METRICS[key] = partial(_called, function, arguments)
        return function

    return register


def _called(function: Callable[..., Figure], arguments: tuple[Any, ...], e: Evidence) -> Figure:
    return function(e, *arguments)


def compute(evidence: Evidence, keys: Iterable[str] | None = None) -> dict[str, Any]:
    """Compute figures; where there are no data, the reason stands under ``missing``."""
    found: dict[str, Any] = {}
    for key in METRICS if keys is None else keys:
        try:
            found[key] = METRICS[key](evidence).json()
        except NoData as reason:
            found[key] = {"missing": str(reason)}
    return found


def _mean(m: Means, quantity: str, budget: float) -> np.ndarray:
    """Mean over the published methods at one budget."""
    return np.mean([m(quantity, name, budget) for name in m.published([budget])], axis=0)


def _floor(m: Means) -> np.ndarray:
    """Flip rate of the noisiest arm in float32: nothing is pruned there."""
    labels = [label for label in m.labels("noise") if "float" not in label]
    if not labels:
        raise NoData("no arms of noise")
    return np.max([m("flip", label, 1.0, "noise") for label in labels], axis=0)


# --- the hazard ---


@metric("published.accuracy_change@50", "accuracy_change", "change of accuracy")
@metric("published.total_variation@50", "total_variation", "total variation of the answers")
@metric("published.flips@50", "flip", "share of answers that flip")
def _at_half(e: Evidence, quantity: str, what: str) -> Figure:
    return e.sampled(_mean(e.means, quantity, 0.5), "share", f"{what}, mean of published methods")


@metric("published.excess_flips@50")
def _excess(e: Evidence) -> Figure:
    values = _mean(e.means, "flip", 0.5) - _floor(e.means)
    return e.sampled(values, "share", "flips beyond the noise floor, mean of published methods")


@metric("published.hidden_flips@50")
def _hidden(e: Evidence) -> Figure:
    """Mean over methods of what is left of flips beyond three times the change of accuracy."""
    m = e.means
    each = [
        m("flip", name, 0.5) - 3 * np.abs(m("accuracy_change", name, 0.5))
        for name in m.published([0.5])
    ]
    what = "flips minus three times the absolute change of accuracy, mean of published methods"
    return e.sampled(np.mean(each, axis=0), "share", what)


@metric("published.cancelling@50")
def _cancelling(e: Evidence) -> Figure:
    won, lost = (_mean(e.means, q, 0.5) for q in ("wrong_to_right", "right_to_wrong"))
    what = "share from wrong to right of the flips between the two, published methods"
    return e.sampled(won / (won + lost), "share", what)


@metric("published.flips.max", "flip", "flips")
@metric("published.right_to_wrong.max", "right_to_wrong", "flips from right to wrong")
def _largest(e: Evidence, quantity: str, what: str) -> Figure:
    m = e.means
    each = [m(quantity, name, b) for b in FIELD for name in m.published([b])]
    return e.sampled(np.max(each, axis=0), "share", f"largest share of {what}, published methods")


@metric("noise.float32.max")
def _noise(e: Evidence) -> Figure:
    """The interval is the rule-of-three one of `compare` where nothing flips."""
    arms = e.results.arms
    noise = arms[(arms["group"] == "noise") & ~arms["label"].astype(str).str.contains("float")]
    if noise.empty:
        raise NoData("no arms of noise")
    found = [e.results.compare(arm) for arm in noise.index]
    worst = max(found, key=lambda c: c.flip_rate.high)
    rate, n = worst.flip_rate, len(worst.samples)
    images = worst.samples["group"].nunique()
    return e.figure(rate.value, rate.low, rate.high, n, images)(
        "share", "largest share of answers that flip with nothing pruned, float32"
    )


# --- energy and IPR ---


@metric("published.ipr_change.projector@22", "projector", "visual tokens at the projector")
@metric("published.ipr_change.last@22", "last", "visual tokens after the last layer")
@metric("published.ipr_change.text@22", "text", "text tokens after the last layer")
def _ipr_change(e: Evidence, column: str, what: str) -> Figure:
    rows = e.spectra[e.spectra["budget"].eq(0.22) & e.spectra["label"].isin(PUBLISHED)]
    if rows.empty:
        raise NoData("no spectra of published methods at 0.22")
    each = rows.groupby("image")[column].mean().to_numpy()
    rng = np.random.default_rng(SEED)
    sample = each[rng.integers(0, len(each), (DRAWS, len(each)))].mean(1)
    low, high = (float(v) for v in np.quantile(sample, [0.025, 0.975]))
    return e.figure(float(each.mean()), low, high, len(rows), len(each))(
        "ratio", f"absolute relative change of centred IPR, {what}, mean of published methods"
    )


def _over_arms(e: Evidence, rows: pd.DataFrame, column: str, within: str | None) -> Any:
    found = arm_correlation(
        rows, [column], "agreement", "cell", "image", within=within, draws=DRAWS, seed=SEED
    )
    return found.loc[column]


@metric("ipr.pooled.centered", "last", None)
@metric("ipr.pooled.uncentered", "uncentered", None)
@metric("ipr.within_budget.centered", "last", "budget")
@metric("ipr.within_budget.uncentered", "uncentered", "budget")
def _ipr_correlation(e: Evidence, column: str, within: str | None) -> Figure:
    where = "between methods at one budget" if within else "over methods and budgets"
    what = f"rank correlation of IPR change with agreement, {where}, last layer"
    centred = "centred" if column == "last" else "as they are"
    row = _over_arms(e, e.spectra, column, within)
    return e.row(row, "correlation", f"{what}, tokens {centred}")


@metric("ipr.pooled.shuffled")
def _ipr_shuffled(e: Evidence) -> Figure:
    control = shuffled(e.spectra[["last"]], e.spectra["budget"], seed=SEED)
    row = _over_arms(e, e.spectra.assign(last=control["last"]), "last", None)
    what = "rank correlation of IPR changes, shuffled within budgets, with agreement"
    return e.row(row, "correlation", what)


@metric("ipr.auc", "ipr", "", "AUC of telling flips within an arm by the image's IPR change")
@metric("margin.auc", "margin", "", "AUC of telling flips within an arm by the unpruned margin")
@metric("margin.auc_lead", "margin", "difference", "AUC by the margin minus AUC by IPR change")
def _auc(e: Evidence, predictor: str, prefix: str, what: str) -> Figure:
    return e.row(e.per_answer.loc[predictor], "AUC lead" if prefix else "AUC", what, prefix)


# --- LoFi against the others ---


def _lead(e: Evidence, ahead: str, others: Sequence[str], what: str) -> Figure:
    """Agreement minus the best other's, which is chosen anew in each sample.

    Each other counts at those of the four budgets that it kept to; where methods reach different
    ones, the smallest lead is that over the best.
    """
    m = e.means
    budgets = {name: m.fair(name) for name in others if m.fair(name)}
    if not budgets:
        raise NoData(f"none of {', '.join(others)} at the asked budgets")
    leads = [m.lead(ahead, name, b) for name, b in budgets.items()]
    nearest = [*budgets][int(np.argmin([lead[0] for lead in leads]))]
    asked = m.counts[:, m.cells["main", nearest, budgets[nearest][0]]]
    images = int((asked > 0).sum())
    n = images * int(np.median(m.counts[m.counts > 0]))
    short = [f"{n} at {' and '.join(f'{x:.0%}' for x in b)}" for n, b in budgets.items()]
    some = "".join(f"; {s}" for s, b in zip(short, budgets.values(), strict=True) if b != BUDGETS)
    what = what.format(", ".join(budgets)) + some
    return e.sampled(np.min(leads, axis=0), "points", what, n, images)


def _lead_kind(e: Evidence, kind: str, names: tuple[str, ...]) -> Figure:
    which = kind.replace("_", " ")
    return _lead(e, "lofi", names, f"agreement of LoFi minus the best of {{}} ({which})")


def _lead_control(e: Evidence, name: str) -> Figure:
    return _lead(e, "lofi", [name], f"agreement of LoFi minus that of {name}")


for _kind, _names in KINDS.items():
    metric(f"lofi.lead.{_kind}", _kind, _names)(_lead_kind)
for _name in ("random", "uniform", "norm", "pool", "anti-lofi"):
    metric(f"lofi.lead.{_name}", _name)(_lead_control)


@metric("deflated.lead.lofi")
def _deflated(e: Evidence) -> Figure:
    what = "agreement of deflated LoFi minus that of LoFi"
    return _lead(e, "deflated-lofi", ["lofi"], what)


@metric("deflated.lead.best_published", "deflated-lofi", "deflated LoFi")
@metric("lofi.lead.best_published", "lofi", "LoFi")
def _lead_best(e: Evidence, label: str, name: str) -> Figure:
    what = f"agreement of {name} minus the best of the published methods ({{}})"
    return _lead(e, label, e.means.published(), what)


@metric("lofi.lead.published", False)
@metric("lofi.lead.published.relative", True)
def _lead_mean(e: Evidence, relative: bool) -> Figure:
    m = e.means
    theirs = np.mean([m.over("agreement", name) for name in m.published()], axis=0)
    lead = np.mean([m.lead("lofi", name) for name in m.published()], axis=0)
    what = "agreement of LoFi minus the mean of the published methods'"
    if relative:
        return e.sampled(lead / theirs, "ratio", f"{what}, relative to it")
    return e.sampled(lead, "points", what)


def _accuracy(e: Evidence, budget: float) -> Figure:
    what = f"change of accuracy by LoFi at {budget:.0%} of the tokens"
    return e.sampled(e.means("accuracy_change", "lofi", budget), "points", what)


def _agreement(e: Evidence, budget: float) -> Figure:
    what = f"agreement of LoFi at {budget:.0%} of the tokens"
    return e.sampled(e.means("agreement", "lofi", budget), "share", what)


for _b in BUDGETS:
    metric(f"lofi.accuracy_change@{100 * _b:.0f}", _b)(_accuracy)
    metric(f"lofi.agreement@{100 * _b:.0f}", _b)(_agreement)


@metric("dynamic.lead")
def _dynamic(e: Evidence) -> Figure:
    m = e.means
    lead = m.lead("lofi dynamic", "lofi", group="dynamic")
    what = "agreement of LoFi with IPR-driven minus fixed budgets of equal mean"
    return e.sampled(lead, "points", what)


@metric("published.below_random")
def _below_random(e: Evidence) -> Figure:
    """Methods whose agreement is lower by a one-sided test after Holm's correction."""
    m = e.means
    leads = [m.lead(name, "random") for name in m.published()]
    p = [stats.norm.cdf(lead[0] / lead[1:].std(ddof=1)) for lead in leads]
    count = float((holm(p) < 0.05).sum())
    what = f"published methods, of {len(leads)}, that agree less often than random choice"
    return e.figure(count, count, count, len(leads), m.images)("methods", what)


@metric("budget.deviation.max")
def _deviation(e: Evidence) -> Figure:
    m = e.means
    cells = [(label, b) for group, label, b in m.cells if group == "main" and b in BUDGETS]
    worst = max(float(abs(m("deviation", *cell)[0])) for cell in cells)
    what = "largest deviation of mean measured from asked budgets, registered methods"
    return e.figure(worst, worst, worst, len(cells), m.images)("share", what)


def unlisted() -> list[str]:
    """Return registered methods of other papers that `KINDS` lacks."""
    kinds = {name: type(get_pruner(name, keep=0.5)) for name in pruner_names()}
    own = kinds["lofi"].paper
    return [n for n, k in kinds.items() if k.paper not in ("", own) and n not in PUBLISHED]
