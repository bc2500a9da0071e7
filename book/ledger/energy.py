"""Quantities of the spectra: how IPR changes, and what that says about consistency."""

from book.ledger.between_arms import arm_correlation, permuted_correlation
from book.ledger.evidence import Evidence
from book.ledger.means import DRAWS, PUBLISHED, SEED, times_drawn
from book.ledger.quantities import NoData, Quantity, metric
from book.ledger.worlds import COUNTING


@metric("published.ipr_excess.projector@22", "projector", "visual tokens at the projector")
@metric("published.ipr_excess.last@22", "last", "visual tokens after the last layer")
@metric("published.ipr_excess.text@22", "text", "text tokens after the last layer")
def _excess(e: Evidence, column: str, what: str) -> Quantity:
    """Mean over methods minus mean over random masks; images, methods and masks are resampled."""
    rows = e.spectra[e.spectra["budget"].eq(0.22)]
    if not rows["label"].isin(PUBLISHED).any():
        raise NoData("no spectra of published methods at 0.22")
    arms = rows.pivot_table(column, "image", ["label", "arm"], observed=True)
    labels = arms.columns.get_level_values("label")
    values = [arms.loc[:, chosen] for chosen in (labels.isin(PUBLISHED), labels == "random")]
    times = times_drawn(len(arms), SEED)
    drawn = [times_drawn(v.shape[1], SEED + 1 + i) for i, v in enumerate(values)]
    theirs, randoms = (times @ v.to_numpy() / times.sum(1)[:, None] for v in values)
    means = [(x * w).sum(1) / w.sum(1) for x, w in zip((theirs, randoms), drawn, strict=True)]
    names, M = values[0].columns.get_level_values("label"), theirs.shape[1]
    without = {
        name: (theirs[0].sum() - theirs[0, j]) / (M - 1) - randoms[0].mean()
        for j, name in enumerate(names)
    }
    what = f"absolute relative change of centred IPR, {what}, published methods minus random"
    counted = arms.size, len(arms)
    return e.sampled(means[0] - means[1], "points", what, counted, without)


def _over_arms(e: Evidence, column: str, within: str | None, what: str) -> Quantity:
    found = arm_correlation(
        e.spectra,
        [column],
        "agreement",
        "cell",
        "image",
        within=within,
        methods="label",
        draws=DRAWS,
        seed=SEED,
    )
    return e.row(found.loc[column], "correlation", what)


@metric("ipr.pooled.centered", "last", None, views=COUNTING)
@metric("ipr.pooled.uncentered", "uncentered", None, views=COUNTING)
@metric("ipr.within_budget.centered", "last", "budget", views=COUNTING)
@metric("ipr.within_budget.uncentered", "uncentered", "budget", views=COUNTING)
def _correlation(e: Evidence, column: str, within: str | None) -> Quantity:
    where = "between methods at one budget" if within else "over methods and budgets"
    what = f"rank correlation of IPR change with agreement, {where}, last layer"
    centred = "centred" if column == "last" else "as they are"
    return _over_arms(e, column, within, f"{what}, tokens {centred}")


@metric("ipr.pooled.shuffled", views=COUNTING)
def _shuffled(e: Evidence) -> Quantity:
    within = None if "shuffled-everywhere" in e.worlds else "budget"
    deals = permuted_correlation(e.spectra, "last", "agreement", "cell", within, seed=SEED)
    what = "rank correlation with agreement of IPR changes dealt out anew within budgets"
    images, methods = (e.spectra[column].nunique() for column in ("image", "label"))
    value, low, high, n = (deals[name] for name in ("value", "low", "high", "n"))
    return e.quantity(value, low, high, n, images, "correlation", what, methods=methods)


@metric("ipr.auc", "ipr", "", "AUC of telling flips by the image's IPR change", views=COUNTING)
@metric("margin.auc", "margin", "", "AUC of telling flips by the unpruned margin", views=COUNTING)
@metric("margin.auc_lead", "margin", "difference", "AUC by margin minus by IPR", views=COUNTING)
def _auc(e: Evidence, predictor: str, prefix: str, what: str) -> Quantity:
    row, unit = e.per_answer.loc[predictor], "AUC lead" if prefix else "AUC"
    return e.row(row, unit, f"{what}, mean over methods and budgets", prefix)
