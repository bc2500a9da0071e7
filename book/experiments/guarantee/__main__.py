"""Write book/results/guarantee.json."""

import argparse
import hashlib
import json
import platform
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from book.build.provenance import commit
from book.experiments.guarantee import live, studies
from book.experiments.guarantee.baselines import evidence_of, records
from book.experiments.guarantee.draws import draw, outcome
from book.experiments.results import FOLDER, Results, load
from lofi_core.evaluation.records import write_whole
from lofi_core.pruners import ClipPruner, InsidePruner, registered

ROOT = Path(__file__).resolve().parents[3]
RANKED_AT = 0.01  # alpha at which methods are ranked, fixed before any was


def methods(results: Results) -> list[str]:
    """Name the methods that a policy can use: before the language model, without the question."""
    unfit = {p.name for p in registered() if issubclass(p, InsidePruner | ClipPruner)}
    arms = results.arms[(results.arms["split"] == "test") & (results.arms["group"] == "main")]
    plain = arms[arms["seed"].isna() & ~arms["pruner"].isin(unfit)]
    budgets = plain.groupby("label")["budget"].agg(set)
    return sorted(str(name) for name, have in budgets.items() if have >= set(studies.BUDGETS))


def ranking(table: pd.DataFrame, names: list[str]) -> dict[str, dict[str, float]]:
    """Net cost of each method at its best single budget, cheapest method first."""
    draws = draw(table["image"].nunique(), studies.CALIBRATION[RANKED_AT], 200, 2)
    found = {}
    for name in names:
        costs = {
            budget: outcome(evidence_of(table, name, [budget]), draws, RANKED_AT).cost
            for budget in studies.BUDGETS
        }
        best = min(costs, key=lambda budget: costs[budget])
        found[name] = {"budget": best, "cost": costs[best]}
    return dict(sorted(found.items(), key=lambda item: item[1]["cost"]))


def study(table: pd.DataFrame, name: str, budget: float, family: np.ndarray) -> dict[str, Any]:
    """Everything about one method; what needs one chain, with its best single budget."""
    found: dict[str, Any] = {"budget": budget, "chains": {}, "cheapest": {}, "baselines": {}}
    for chain in studies.CHAINS:
        evidence = evidence_of(table, name, chain)
        found["chains"][studies.chain_name(chain)] = {
            str(alpha): studies.one_chain(evidence, alpha, studies.CALIBRATION[alpha])
            for alpha in studies.ALPHAS
        }
    for alpha in studies.ALPHAS:
        images = studies.CALIBRATION[alpha]
        found["cheapest"][str(alpha)] = studies.cheapest(table, name, alpha, images)
        found["baselines"][str(alpha)] = studies.baselines(table, name, budget, alpha)
    mine, broken = (evidence_of(table, name, [budget], loss) for loss in ("changed", "broken"))
    found["flips"] = float((mine.losses(np.zeros(1))[0] / mine.asked).mean())
    found["broken"] = {
        str(alpha): studies.one_chain(broken, alpha, studies.CALIBRATION[alpha])
        for alpha in studies.ALPHAS
    }
    found["bounds"] = {
        bound: {str(a): studies.one_chain(mine, a, 500, bound=bound) for a in (0.05, 0.02)}
        for bound in ("betting", "hoeffding-bentkus")
    }
    found["families"] = {str(a): studies.families(mine, family, a) for a in studies.ALPHAS}
    found["shifts"] = {str(a): studies.shifts(mine, family, a, 500) for a in (0.05, 0.02)}
    return found


def monitors() -> list[dict[str, Any]]:
    """Detection times: a drift from half of alpha to a multiple of it; no drift, as a control."""
    return [
        studies.watching(alpha, alpha / 2, times * alpha, 0.05, good, longest=longest)
        for alpha in (0.05, 0.02)
        for good in (0, 20_000)
        for times, longest in ((1.0, 4000), (2.0, 20_000), (4.0, 20_000))
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser("book.experiments.guarantee", description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER / "guarantee.json")
    options = parser.parse_args(argv)
    results = load(groups=["main"])
    names = methods(results)
    table = records(results, names, [0.75, *studies.BUDGETS])
    reference = table[table["arm"] == 0].sort_values(["image", "number"])
    family = reference["family"].to_numpy(dtype=str)
    ranked = ranking(table, names)
    best = list(ranked)[:3]
    experiment = (results.folder / "experiment.json").read_bytes()
    names_of = ("torch", "transformers", "numpy", "scipy", "pandas")
    found = {
        "command": "python -m book.experiments.guarantee",
        "commit": commit(ROOT),
        "date": date.today().isoformat(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in names_of},
        "from": {
            "weights": results.experiment["weights"],
            "data": results.experiment["data"]["test"],
            "images": len(reference["image"].unique()),
            "questions": len(reference),
            "experiment.json": hashlib.sha256(experiment).hexdigest(),
        },
        "draws": studies.DRAWS,
        "delta": studies.DELTA,
        "calibration_images": {str(a): n for a, n in studies.CALIBRATION.items()},
        "ranked_at": RANKED_AT,
        "ranking": ranked,
        "methods": {name: study(table, name, ranked[name]["budget"], family) for name in best},
        "monitor": monitors(),
        "live": live.served(table, best[0], ranked[best[0]]["budget"]),
    }
    text = json.dumps(_rounded(found), indent=1) + "\n"
    write_whole(options.out, lambda part: part.write_text(text))
    return 0


def _rounded(value: Any) -> Any:
    """Keep six digits: more would change from machine to machine."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    return [_rounded(x) for x in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
