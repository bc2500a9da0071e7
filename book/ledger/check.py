"""The record: every quantity and verdict, and a check that computes them again.

book/claims.yml says what is claimed and what would count as its replication. Quantities, those of
the controls, and verdicts go to book/results/metrics.json. On pages,
``{metric}`lofi.lead.random` `` stands for a quantity (see book/_ext/ledger_roles.py), so that prose
cannot disagree with the record.
"""

from collections.abc import Mapping
from typing import Any

import book.ledger.beside
import book.ledger.costs
import book.ledger.energy
import book.ledger.exact
import book.ledger.hazard
import book.ledger.leads  # noqa: F401  (all six register their quantities)
from book.ledger.claims import ROOT, Claim, form
from book.ledger.evidence import Evidence
from book.ledger.quantities import compute
from book.ledger.verdicts import Quantities, control_keys, verdict

__all__ = ["RECORD", "check", "compute_all", "record"]

RECORD = ROOT / "book" / "results" / "metrics.json"
RUN = ("schema", "data", "scenes", "site_scenes", "weights", "dtype", "attention", "device")


def compute_all(evidence: Evidence, claims: list[Claim]) -> dict[str, Quantities]:
    """Compute all quantities, and those of the controls."""
    return {"metrics": compute(evidence), "controls": compute(evidence, control_keys(claims))}


def record(evidence: Evidence, claims: list[Claim]) -> dict[str, Any]:
    """Compute all quantities and verdicts."""
    found, run = compute_all(evidence, claims), evidence.results.experiment
    verdicts = {c["id"]: verdict(c, found["metrics"], found["controls"]) for c in claims}
    names = (*RUN, "versions", "commit")
    return {
        "run": {name: run[name] for name in names if name in run},
        **found,
        "verdicts": verdicts,
    }


def check(
    claims: list[Claim], recorded: Mapping[str, Any], fresh: Mapping[str, Quantities]
) -> list[str]:
    """Return what is wrong, one line each; an empty list is a ledger in order.

    Parameters
    ----------
    claims
        What `book.ledger.claims.read` returns.
    recorded
        The content of book/results/metrics.json.
    fresh
        What `compute_all` returns just now.
    """
    if problems := form(claims):
        return problems
    for part in ("metrics", "controls"):
        known = recorded[part]
        for key, quantity in fresh[part].items():
            users = [
                c["id"] for c in claims for t in c["tests"] if t["metric"] == key.split("~")[0]
            ]
            by = ", ".join(dict.fromkeys(users)) or "no claim"
            problems += [f"{by}: {key}: {what}" for what in _moved(quantity, known.get(key))]
        gone = known.keys() - fresh[part].keys()
        problems += [f"{key}: recorded, and not computed" for key in gone]
    for claim in claims:
        problems += [f"{claim['id']}: {what}" for what in _stale(claim, recorded, fresh)]
    strangers = recorded["verdicts"].keys() - {claim["id"] for claim in claims}
    return problems + [f"{name}: recorded, and no claim" for name in sorted(strangers)]


def _stale(claim: Claim, recorded: Mapping[str, Any], fresh: Mapping[str, Quantities]) -> list[str]:
    """Return how a claim's verdict differs from its record, and which controls hold."""
    if absent := [t["metric"] for t in claim["tests"] if t["metric"] not in recorded["metrics"]]:
        return [f"no record of {', '.join(absent)}"]
    made = verdict(claim, fresh["metrics"], fresh["controls"])
    problems = [
        f"{test['metric']} holds in its control ({test['control']}): the test can't fail"
        for test, found in zip(claim["tests"], made["controls"], strict=True)
        if found == "holds"
    ]
    try:
        expected = verdict(claim, recorded["metrics"], recorded["controls"])
    except KeyError as key:
        return [*problems, f"no record of {key}"]
    found = recorded["verdicts"].get(claim["id"])
    if found != expected:
        said, now = found and found["verdict"], expected["verdict"]
        what = f"recorded {said!r}, computed {now!r}" if said != now else "says something else"
        return [*problems, what]
    for name in ("tests", "controls", "views"):
        if made[name] != found[name]:
            problems.append(f"{name} recorded {found[name]}, computed {made[name]}")
    return problems


def _moved(fresh: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> list[str]:
    """Compare a quantity with its record.

    Values follow from the data, so they may differ by rounding alone; where they measure rounding
    itself, they have to stay below the claim's tolerance, which the verdict sees to. Limits may
    differ by a twentieth of the interval: another NumPy may draw other samples.
    """
    if recorded is None:
        return ["not recorded"]
    if "missing" in fresh or "missing" in recorded:
        return [] if fresh == recorded else [f"recorded {recorded}, computed {fresh}"]
    problems = []
    room = 1e-6 + 0.05 * (fresh["high"] - fresh["low"])
    slack = {"value": 1e-6, "low": room, "high": room, "least_without": 1e-6, "most_without": 1e-6}
    for name, now in fresh.items():
        then = recorded.get(name)
        if name in slack and now is not None and then is not None:
            if (
                fresh["unit"] != "error" and not abs(now - then) <= slack[name]
            ):  # NaN has moved, too
                problems.append(f"{name} recorded {then:.6g}, computed {now:.6g}")
        elif now != then:
            problems.append(f"{name} recorded {then!r}, computed {now!r}")
    return problems
