"""The record: every quantity and verdict, and a check that computes them again.

book/claims.yml says what is claimed and what would count as its replication. Quantities and
verdicts go to book/results/metrics.json. On pages, ``{metric}`lofi.lead.random` `` stands for a
quantity (see book/_ext/ledger_roles.py), so that prose cannot disagree with the record.
"""

from collections.abc import Mapping
from typing import Any

import book.ledger.beside
import book.ledger.energy
import book.ledger.exact
import book.ledger.hazard
import book.ledger.leads  # noqa: F401  (all five register their quantities)
from book.ledger.claims import ROOT, Claim, form
from book.ledger.evidence import Evidence
from book.ledger.quantities import compute
from book.ledger.verdicts import Quantities, verdict

__all__ = ["RECORD", "check", "record"]

RECORD = ROOT / "book" / "results" / "metrics.json"
RUN = ("schema", "data", "scenes", "site_scenes", "weights", "dtype", "attention", "device")


def record(evidence: Evidence, claims: list[Claim]) -> dict[str, Any]:
    """Compute all quantities and verdicts."""
    quantities = compute(evidence)
    run = evidence.results.experiment
    return {
        "run": {name: run[name] for name in (*RUN, "versions", "commit") if name in run},
        "metrics": quantities,
        "verdicts": {claim["id"]: verdict(claim, quantities) for claim in claims},
    }


def check(claims: list[Claim], recorded: dict[str, Any], fresh: Quantities) -> list[str]:
    """Return what is wrong, one line each; an empty list is a ledger in order.

    Parameters
    ----------
    claims
        What `book.ledger.claims.read` returns.
    recorded
        The content of book/results/metrics.json.
    fresh
        Quantities computed just now.
    """
    if problems := form(claims):
        return problems
    known = recorded["metrics"]
    for key, quantity in fresh.items():
        users = [c["id"] for c in claims for t in c["tests"] if t["metric"] == key]
        by = ", ".join(dict.fromkeys(users)) or "no claim"
        problems += [f"{by}: {key}: {what}" for what in _moved(quantity, known.get(key))]
    problems += [f"{key}: recorded, and not computed" for key in known.keys() - fresh.keys()]
    for claim in claims:
        if absent := [t["metric"] for t in claim["tests"] if t["metric"] not in known]:
            problems.append(f"{claim['id']}: no record of {', '.join(absent)}")
            continue
        expected, found = verdict(claim, known), recorded["verdicts"].get(claim["id"])
        if found != expected:
            said, now = found and found["verdict"], expected["verdict"]
            what = f"recorded {said!r}, computed {now!r}" if said != now else "says something else"
            problems.append(f"{claim['id']}: {what}")
        elif (tests := verdict(claim, fresh)["tests"]) != found["tests"]:
            problems.append(f"{claim['id']}: recorded {found['tests']}, computed {tests}")
    strangers = recorded["verdicts"].keys() - {claim["id"] for claim in claims}
    return problems + [f"{name}: recorded, and no claim" for name in sorted(strangers)]


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
    if fresh["unit"] != "error":
        room = 1e-6 + 0.05 * (fresh["high"] - fresh["low"])
        for name, slack in (("value", 1e-6), ("low", room), ("high", room)):
            if not abs(fresh[name] - recorded[name]) <= slack:  # NaN has moved, too
                problems.append(f"{name} recorded {recorded[name]:.6g}, computed {fresh[name]:.6g}")
    for name in fresh.keys() - {"value", "low", "high"}:
        if fresh[name] != recorded.get(name):
            problems.append(f"{name} recorded {recorded.get(name)!r}, computed {fresh[name]!r}")
    return problems
