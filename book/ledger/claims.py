"""The claims: read from book/claims.yml, and whether each is in form."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from book.ledger.quantities import METRICS

__all__ = ["CLAIMS", "Claim", "claims_of", "form", "read", "typed"]

Claim = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ROOT / "book" / "claims.yml"
CRITERIA = {
    "exact": [{"value", "tolerance"}],
    "interval": [{"between"}],
    "direction": [{"above"}, {"below"}],
}
FIELDS = (
    *("id", "source", "from", "quote", "statement", "about", "kind"),
    *("tests", "notebook", "profile", "cost"),
)
NUMBER = re.compile(r"(?<![\w.])[-+±−]?\d+\.\d+(?= ?(?:%|points|per cent))")


def read(path: Path = CLAIMS) -> list[Claim]:
    """Read the claims."""
    claims: list[Claim] = yaml.safe_load(path.read_text())
    return claims


def claims_of(notebook: str, claims: Iterable[Claim] | None = None) -> list[Claim]:
    """Return the claims that a notebook tests, by the stem of its name or the whole of it."""
    stem = Path(notebook).stem
    every = read() if claims is None else claims
    return [claim for claim in every if Path(claim["notebook"]).stem == stem]


def form(claims: list[Claim]) -> list[str]:
    """Return what claims lack, one line each."""
    ids = [claim.get("id", "a claim without id") for claim in claims]
    problems = [f"{i}: appears {ids.count(i)} times" for i in sorted({*ids}) if ids.count(i) > 1]
    for name, claim in zip(ids, claims, strict=True):
        problems += [f"{name}: {problem}" for problem in _lacks(claim)]
    return problems


def _lacks(claim: Claim) -> list[str]:
    reason = "why" if claim.get("tests") else "not_attempted"
    if missing := [field for field in (*FIELDS, reason) if field not in claim]:
        return [f"lacks {', '.join(missing)}"]
    problems = []
    if not (ROOT / f"{claim['notebook']}.ipynb").exists():
        problems.append(f"no notebook {claim['notebook']}")
    if not (ROOT / "book" / "profiles" / f"{claim['profile']}.yaml").exists():
        problems.append(f"no profile {claim['profile']}")
    cited = re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.M)
    if claim["source"] not in ("ours", *cited):
        problems.append(f"references.bib has no {claim['source']}")
    if claim["kind"] not in CRITERIA:
        return [*problems, f"kind {claim['kind']!r}; expected one of {[*CRITERIA]}"]
    for test in claim["tests"]:
        if test["metric"] not in METRICS:
            problems.append(f"unknown metric {test['metric']}")
        if test.keys() - {"metric"} not in CRITERIA[claim["kind"]]:
            problems.append(f"{test} is no test of kind {claim['kind']}")
    return problems


def typed(text: str, claims: Iterable[Claim]) -> list[str]:
    """Find results in prose that were typed: decimals with % or points that no claim quotes.

    >>> typed("of the paper's +12.7 % we find 3.1 %", [{"quote": "+12.7%", "statement": ""}])
    ['3.1']
    """
    quoted = " ".join(f"{claim['quote']} {claim['statement']}" for claim in claims)
    known = {found.strip("+±-−") for found in re.findall(r"[-+±−]?\d+\.\d+", quoted)}
    return [found for found in NUMBER.findall(text) if found.strip("+±-−") not in known]
