"""Certify how to answer: the cheapest chain of budgets, and the confidence its answers need.

Each pruner with each budget or cascade is a chain, and has its own fixed sequence of tests, see
`lofi_core.guarantee.testing`. C chains share the error delta equally, so that the cheapest of those
certified may be taken.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from lofi_core.errors import LofiError, extra
from lofi_core.guarantee import provenance
from lofi_core.guarantee.bounds import Bound, check_level, p_value, upper
from lofi_core.guarantee.evidence import Confidence, Evidence, Loss, gather
from lofi_core.guarantee.policy import Policy, describe_pruner
from lofi_core.guarantee.samples import images_to_certify
from lofi_core.guarantee.testing import THRESHOLDS, certified
from lofi_core.pruners import Pruner, get_pruner

with extra("eval"):
    import pandas as pd

__all__ = ["Budget", "calibrate"]

Budget = float | Sequence[float]
RUN = ("model", "weights", "data", "dtype", "torch", "transformers", "lofi_core")


def calibrate(
    source: pd.DataFrame | tuple[Any, Any, Sequence[Any]],
    pruners: Sequence[str | Pruner],
    budgets: Sequence[Budget],
    alpha: float,
    delta: float = 0.05,
    *,
    loss: Loss = "changed",
    confidence: Confidence = "margin",
    bound: Bound = "betting",
    model: Any = None,
    processor: Any = None,
    longest: int = 16,
    seed: int = 0,
) -> Policy:
    """Find the cheapest way to answer that provably changes at most a share alpha of the answers.

    Parameters
    ----------
    source : DataFrame or (model, processor, scenes)
        Records, one row per arm and question, arm 0 being unpruned; or what to ask.
    pruners : sequence of str or Pruner
        Names, or pruners whose ``keep`` each budget replaces.
    budgets : sequence of float or of sequences of float
        A share of the tokens, or a cascade such as ``(0.11, 0.33)``. All tokens are always the last
        resort.
    alpha : float in (0, 1)
        Limit of the mean over images of the share of answers that count as a loss.
    delta : float in (0, 1)
        Probability, over the draw of the images, that the limit is broken all the same.
    loss : {"changed", "broken"}
        Any changed answer, or only right answers that became wrong.
    confidence : {"margin", "ipr", "leverage"}
        What decides whether an answer stands, see `lofi_core.guarantee.evidence.gather`. The last
        two are known before the language model runs.
    bound : {"betting", "hoeffding-bentkus", "binomial"}
        See `lofi_core.guarantee.bounds`; "binomial" draws one question per image.
    model, processor : optional
        Of the records, so that the policy can be held to them; otherwise part of the source.
    longest : int
        Tokens of a free-text reply in the records, or to ask for.
    seed : int
        Of that draw.

    Returns
    -------
    Policy

    Raises
    ------
    LofiError
        If a level is outside (0, 1); if there are fewer than two images; if records mix runs, are
        of another model, or lack an arm, margins or truth; or if nothing can be certified, with the
        number of images that it would take.

    Notes
    -----
    The images must be drawn as those to come will be. A loss is a difference from the answers of
    arm 0; what numerical noise does to those in another batch is not part of it.
    """
    check_level("calibrate", "alpha", alpha)
    check_level("calibrate", "delta", delta)
    chains = [_chain(pruner, budget) for pruner in pruners for budget in budgets]
    if not chains or not all(chains):
        raise LofiError(
            f"calibrate: pruners={list(pruners)}, budgets={list(budgets)}; expected at least one "
            "of each"
        )
    if not isinstance(source, pd.DataFrame):
        from lofi_core.guarantee.collect import collect

        model, processor, scenes = source
        source = collect(
            model, processor, scenes, [p for chain in chains for p in chain], confidence, longest
        )
    facts = _provenance(source, model, processor)
    kind = _kind(source)
    share = delta / len(chains)
    tested = []
    for chain in chains:
        evidence = gather(source, [_arm_of(source, each) for each in chain], loss, confidence)
        if bound == "binomial":
            evidence = evidence.one_per_image(seed)
        if len(evidence.asked) < 2:
            raise LofiError("calibrate: one image; expected at least two: the image is the unit")
        tested.append((chain, evidence, certified(evidence, alpha, share, bound)))
    works = [
        (float(evidence.cost(THRESHOLDS[[place]]).mean()), chain, evidence, place)
        for chain, evidence, place in tested
        if place is not None
    ]
    if not works:
        raise _too_few([evidence for _, evidence, _ in tested], alpha, delta)
    cost, chain, evidence, place = min(works, key=lambda found: found[0])
    at = THRESHOLDS[[place]]
    bad, asked = evidence.losses(at)[0], evidence.asked
    return Policy(
        pruners=tuple(describe_pruner(each) for each in chain),
        threshold=float(at[0]),
        confidence=confidence,
        answers=kind,
        longest=1 if kind == "closed" else longest,
        alpha=alpha,
        delta=delta,
        loss=loss,
        bound=bound,
        images=len(asked),
        questions=int(asked.sum()),
        coverage=float(evidence.coverage(at)[0]),
        cost=cost,
        risk=float((bad / asked).mean()),
        risk_upper=upper(lambda limit: float(p_value(bound, bad, asked, limit, share)), share),
        chains=len(chains),
        provenance=facts,
    )


def _chain(pruner: str | Pruner, budget: Budget) -> list[Pruner]:
    """Make a pruner for each budget of a cascade."""
    keeps = [budget] if isinstance(budget, int | float) else list(budget)
    if isinstance(pruner, str):
        return [get_pruner(pruner, keep=keep) for keep in keeps]
    return [replace(pruner, keep=keep) for keep in keeps]


def _arm_of(records: pd.DataFrame, pruner: Pruner) -> int:
    """Find the one arm of a pruner."""
    arms = records.loc[records["parameters"] == repr(pruner), "arm"].unique()
    if len(arms) != 1:
        there = records.loc[records["arm"] != 0, "parameters"].unique().tolist()
        raise LofiError(
            f"calibrate: {len(arms)} arms of {pruner!r}; expected one, among {there}: pass the "
            "pruner itself, with the parameters of the run"
        )
    return int(arms[0])


def _kind(records: pd.DataFrame) -> str:
    """Whether answers are chosen or free; a promise for one kind says nothing about the other."""
    chosen = records["choices"].map(len) > 0
    if chosen.all():
        return "closed"
    if not chosen.any():
        return "free"
    raise LofiError(
        f"calibrate: {int(chosen.sum())} answers of {len(chosen)} are one of given choices, the "
        "others free text; expected one kind: calibrate each by itself"
    )


def _provenance(records: pd.DataFrame, model: Any, processor: Any) -> dict[str, Any]:
    """Say what the promise holds for; refuse records of several runs, or of another model."""
    known = {name: records[name].unique().tolist() for name in RUN if name in records}
    if mixed := {name: values for name, values in known.items() if len(values) != 1}:
        raise LofiError(
            f"calibrate: records of several runs: {mixed}; expected one: take the rows of one run"
        )
    facts: dict[str, Any] = {name: values[0] for name, values in known.items()}
    if model is not None:
        here = provenance.of_model(model)
        if odd := {k: (facts[k], here[k]) for k in here if k in facts and facts[k] != here[k]}:
            raise LofiError(
                f"calibrate: records of another run; in the records, and in the model: {odd}; "
                "expected the same: ask this model, or load the one that was asked"
            )
        facts |= here
    if processor is not None:
        facts["processor"] = provenance.of_processor(processor)
    now = datetime.now(UTC).date().isoformat()
    return facts | {"date": now, "commit": provenance.code_commit()}


def _too_few(tested: Sequence[Evidence], alpha: float, delta: float) -> LofiError:
    """Say how many images it would take; never offer a weaker promise."""
    n, share = len(tested[0].asked), delta / len(tested)
    pilots = [evidence.losses(THRESHOLDS[:1])[0] / evidence.asked for evidence in tested]
    needed = [m for pilot in pilots if (m := images_to_certify(pilot, alpha, share)) is not None]
    remedy = (
        f"about {max(min(needed), n + 1)} images would: draw more, or test fewer chains"
        if needed
        else "no number of images would, since even the strictest threshold loses more: choose "
        "another pruner, or a larger budget"
    )
    return LofiError(
        f"calibrate: {n} images certify no threshold of {len(tested)} chain(s) at alpha={alpha}, "
        f"delta={delta}; {remedy}"
    )
