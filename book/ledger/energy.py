"""Quantities of the spectra: how IPR changes, and what that says about consistency."""

from typing import Any

import pandas as pd

from book.ledger.evidence import Evidence
from book.ledger.means import DRAWS, PUBLISHED, SEED
from book.ledger.prediction import arm_correlation, shuffled
from book.ledger.quantities import NoData, Quantity, metric
from lofi_core.evaluation.statistics import clustered_means


@metric("published.ipr_change.projector@22", "projector", "visual tokens at the projector")
@metric("published.ipr_change.last@22", "last", "visual tokens after the last layer")
@metric("published.ipr_change.text@22", "text", "text tokens after the last layer")
def _ipr_change(e: Evidence, column: str, what: str) -> Quantity:
    rows = e.spectra[e.spectra["budget"].eq(0.22) & e.spectra["label"].isin(PUBLISHED)]
    if rows.empty:
        raise NoData("no spectra of published methods at 0.22")
    found = clustered_means(rows[[column]], rows["image"], draws=DRAWS, seed=SEED).loc[column]
    what = f"absolute relative change of centred IPR, {what}, mean of published methods"
    numbers = found["value"], found["low"], found["high"], len(rows), found["clusters"]
    return e.quantity(*numbers, "ratio", what)


def _over_arms(e: Evidence, rows: pd.DataFrame, column: str, within: str | None) -> Any:
    found = arm_correlation(
        rows, [column], "agreement", "cell", "image", within=within, draws=DRAWS, seed=SEED
    )
    return found.loc[column]


@metric("ipr.pooled.centered", "last", None)
@metric("ipr.pooled.uncentered", "uncentered", None)
@metric("ipr.within_budget.centered", "last", "budget")
@metric("ipr.within_budget.uncentered", "uncentered", "budget")
def _ipr_correlation(e: Evidence, column: str, within: str | None) -> Quantity:
    where = "between methods at one budget" if within else "over methods and budgets"
    what = f"rank correlation of IPR change with agreement, {where}, last layer"
    centred = "centred" if column == "last" else "as they are"
    row = _over_arms(e, e.spectra, column, within)
    return e.row(row, "correlation", f"{what}, tokens {centred}")


@metric("ipr.pooled.shuffled")
def _ipr_shuffled(e: Evidence) -> Quantity:
    control = shuffled(e.spectra[["last"]], e.spectra["budget"], seed=SEED)
    row = _over_arms(e, e.spectra.assign(last=control["last"]), "last", None)
    what = "rank correlation of IPR changes, shuffled within budgets, with agreement"
    return e.row(row, "correlation", what)


@metric("ipr.auc", "ipr", "", "AUC of telling flips within an arm by the image's IPR change")
@metric("margin.auc", "margin", "", "AUC of telling flips within an arm by the unpruned margin")
@metric("margin.auc_lead", "margin", "difference", "AUC by the margin minus AUC by IPR change")
def _auc(e: Evidence, predictor: str, prefix: str, what: str) -> Quantity:
    return e.row(e.per_answer.loc[predictor], "AUC lead" if prefix else "AUC", what, prefix)
