"""The ledger: every claim, its criterion, the figure, and the verdict that follows.

    python -m book.ledger            compute all figures and verdicts from the committed results
    python -m book.ledger --check    compute them again; name every claim whose record is stale

book/claims.yml says what is claimed and what would count as its replication. The figures
(`book.ledger.metrics` and the modules that add to it) and verdicts (`book.ledger.verdicts`) go to
book/results/metrics.json.

On pages, ``{metric}`lofi.lead.random` `` stands for a figure (see book/_ext/ledger_roles.py), so
that prose cannot disagree with the record; `typed` finds figures that were typed all the same.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

import book.ledger.exact
import book.ledger.leads
import book.ledger.second_looks  # noqa: F401  (all three register their figures)
from book.ledger.evidence import Evidence
from book.ledger.metrics import METRICS, compute
from book.ledger.verdicts import Claim, Figures, verdict

__all__ = ["CLAIMS", "RECORD", "check", "claims_of", "read", "record", "typed"]

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ROOT / "book" / "claims.yml"
RECORD = ROOT / "book" / "results" / "metrics.json"
CRITERIA = {
    "exact": [{"value", "tolerance"}],
    "interval": [{"between"}],
    "direction": [{"above"}, {"below"}],
}
FIELDS = (
    *("id", "source", "from", "quote", "statement", "about", "kind"),
    *("tests", "notebook", "profile", "cost"),
)


def read(path: Path = CLAIMS) -> list[Claim]:
    """Read the claims."""
    claims: list[Claim] = yaml.safe_load(path.read_text())
    return claims


def claims_of(notebook: str, claims: Iterable[Claim] | None = None) -> list[Claim]:
    """Return the claims that a notebook tests, by the stem of its name or the whole of it."""
    stem = Path(notebook).stem
    every = read() if claims is None else claims
    return [claim for claim in every if Path(claim["notebook"]).stem == stem]


def record(evidence: Evidence, claims: list[Claim]) -> dict[str, Any]:
    """Compute all figures and verdicts."""
    figures = compute(evidence)
    run = evidence.results.experiment
    names = ("schema", "data", "scenes", "site_scenes", "weights", "dtype", "attention", "device")
    return {
        "run": {name: run[name] for name in (*names, "versions", "commit") if name in run},
        "metrics": figures,
        "verdicts": {claim["id"]: verdict(claim, figures) for claim in claims},
    }


def check(claims: list[Claim], recorded: dict[str, Any], fresh: Figures | None) -> list[str]:
    """Return what is wrong, one line each; an empty list is a ledger in order.

    Parameters
    ----------
    claims
        What `read` returns.
    recorded
        The content of book/results/metrics.json.
    fresh
        Figures computed just now; None to compare nothing with them.
    """
    problems = [problem for claim in claims for problem in _form(claim)]
    ids = [claim["id"] for claim in claims]
    problems += [f"{i}: appears {ids.count(i)} times" for i in sorted({*ids}) if ids.count(i) > 1]
    if problems:
        return problems
    figures = recorded["metrics"]
    if fresh is not None:
        for key, figure in fresh.items():
            users = [c["id"] for c in claims for t in c["tests"] if t["metric"] == key]
            by = ", ".join(dict.fromkeys(users)) or "no claim"
            problems += [f"{by}: {key}: {what}" for what in _moved(figure, figures.get(key))]
        problems += [f"{key}: recorded, and not computed" for key in figures.keys() - fresh.keys()]
    for claim in claims:
        if absent := [t["metric"] for t in claim["tests"] if t["metric"] not in figures]:
            problems.append(f"{claim['id']}: no record of {', '.join(absent)}")
            continue
        expected, found = verdict(claim, figures), recorded["verdicts"].get(claim["id"])
        if found != expected:
            said = found and found["verdict"]
            now = expected["verdict"]
            what = f"recorded {said!r}, computed {now!r}" if said != now else "says something else"
            problems.append(f"{claim['id']}: {what}")
        elif fresh is not None and (tests := verdict(claim, fresh)["tests"]) != found["tests"]:
            problems.append(f"{claim['id']}: recorded {found['tests']}, computed {tests}")
    strangers = recorded["verdicts"].keys() - {*ids}
    return problems + [f"{name}: recorded, and no claim" for name in sorted(strangers)]


def _form(claim: Claim) -> list[str]:
    """Return what a claim lacks."""
    name = claim.get("id", "a claim without id")
    reason = "why" if claim.get("tests") else "not_attempted"
    if missing := [field for field in (*FIELDS, reason) if field not in claim]:
        return [f"{name}: lacks {', '.join(missing)}"]
    problems = []
    if not (ROOT / f"{claim['notebook']}.ipynb").exists():
        problems.append(f"{name}: no notebook {claim['notebook']}")
    if not (ROOT / "book" / "profiles" / f"{claim['profile']}.yaml").exists():
        problems.append(f"{name}: no profile {claim['profile']}")
    cited = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.M)
    if claim["source"] not in ("ours", *cited):
        problems.append(f"{name}: references.bib has no {claim['source']}")
    if claim["kind"] not in CRITERIA:
        return [*problems, f"{name}: kind {claim['kind']!r}; expected one of {[*CRITERIA]}"]
    for test in claim["tests"]:
        if test["metric"] not in METRICS:
            problems.append(f"{name}: unknown metric {test['metric']}")
        if test.keys() - {"metric"} not in CRITERIA[claim["kind"]]:
            problems.append(f"{name}: {test} is no test of kind {claim['kind']}")
    return problems


def _moved(fresh: Mapping[str, Any], recorded: Mapping[str, Any] | None) -> list[str]:
    """Compare a figure with its record.

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


NUMBER = re.compile(r"(?<![\w.])[-+±−]?\d+\.\d+(?= ?(?:%|points|per cent))")


def typed(text: str, claims: Iterable[Claim]) -> list[str]:
    """Find figures in prose that were typed: decimals with % or points that no claim quotes.

    >>> typed("of the paper's +12.7 % we find 3.1 %", [{"quote": "+12.7%", "statement": ""}])
    ['3.1']
    """
    quoted = " ".join(f"{claim['quote']} {claim['statement']}" for claim in claims)
    known = {found.strip("+±-−") for found in re.findall(r"[-+±−]?\d+\.\d+", quoted)}
    return [found for found in NUMBER.findall(text) if found.strip("+±-−") not in known]


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="book.ledger", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with the record, write nothing"
    )
    parser.add_argument(
        "--results", type=Path, help="folder of the results (default: book/results)"
    )
    parser.add_argument("--record", type=Path, default=RECORD, help="default: %(default)s")
    args = parser.parse_args(argv)
    from book.experiments import load  # reading the form of claims needs no results

    claims = read()
    if problems := [problem for claim in claims for problem in _form(claim)]:
        print("\n".join(problems), file=sys.stderr)
        return 1
    evidence = Evidence(load(args.results) if args.results else load())
    if args.check:
        problems = check(claims, json.loads(args.record.read_text()), compute(evidence))
        print("\n".join(problems) or f"{len(claims)} claims are as recorded", file=sys.stderr)
        return bool(problems)
    made = record(evidence, claims)
    args.record.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    for name, found in made["verdicts"].items():
        print(f"{found['verdict']:15} {name:22} {found['says']}")
    return 0
