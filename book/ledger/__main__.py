"""Compute quantities and verdicts, or check the record of them.

Without options everything is computed from the committed results, and the record is written. With
``--check`` nothing is written: every claim whose record is stale is named.
"""

import argparse
import json
import sys
from pathlib import Path

from book.experiments import load
from book.ledger.check import RECORD, check, record
from book.ledger.claims import form, read
from book.ledger.evidence import Evidence
from book.ledger.quantities import compute

__all__ = ["main"]


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
    claims = read()
    if problems := form(claims):
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


if __name__ == "__main__":
    sys.exit(main())
