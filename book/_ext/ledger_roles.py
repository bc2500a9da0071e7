"""Sphinx extension: pages take quantities and claims from the ledger's record, never by hand.

``{metric}`lofi.lead.random` `` becomes the quantity with its interval, ``{verdict}`id` `` a claim's
verdict. The directive ``{claims}`` lists what the page tests, or what the page named as its
argument does, with their verdicts and links to the ledger. A key without a record is an error of
the build.
"""

import json
from typing import Any

from docutils import nodes
from docutils.parsers.rst import roles
from docutils.parsers.rst.states import Inliner
from sphinx.util.docutils import SphinxDirective

from book.ledger.check import RECORD
from book.ledger.claims import claims_of
from book.ledger.wording import show, typeset

LEDGER = "notebooks/11-the-ledger"


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    roles.register_local_role("metric", metric)
    roles.register_local_role("verdict", verdict)
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def recorded() -> dict[str, Any]:
    """Read the record."""
    return dict(json.loads(RECORD.read_text()))


def metric(
    name: str, raw: str, text: str, line: int, inliner: Inliner, *_: Any
) -> tuple[list[nodes.Node], list[Any]]:
    """Put a quantity in the text, and what it is in its tooltip."""
    quantity = recorded()["metrics"].get(text, {"missing": "no such metric"})
    if "missing" in quantity:
        return [], [inliner.reporter.error(f"metric {text}: {quantity['missing']}", line=line)]
    shown = typeset(show(quantity))
    what = {"explanation": quantity["what"], "classes": ["metric"]}
    return [nodes.abbreviation(raw, shown, **what)], []


def verdict(
    name: str, raw: str, text: str, line: int, inliner: Inliner, *_: Any
) -> tuple[list[nodes.Node], list[Any]]:
    """Put a verdict in the text."""
    found = recorded()["verdicts"].get(text)
    if found is None:
        return [], [inliner.reporter.error(f"verdict {text}: no such claim", line=line)]
    return [nodes.strong(raw, found["verdict"])], []


class Claims(SphinxDirective):
    """The claims that a page tests, a line each."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the list."""
        page = self.arguments[0] if self.arguments else self.env.docname
        claims = claims_of(page)
        if not claims:
            raise self.error(f"no claim of the ledger is tested in {page}")
        verdicts, items = recorded()["verdicts"], nodes.bullet_list()
        there = self.env.app.builder.get_relative_uri(self.env.docname, LEDGER)
        for claim in claims:
            said = verdicts.get(claim["id"], {"verdict": "not in the record"})["verdict"]
            link = nodes.reference("", claim["id"], refuri=f"{there}#claim-{claim['id']}")
            text = f": {typeset(' '.join(claim['statement'].split()))} "
            line = nodes.paragraph("", "", link, nodes.Text(text), nodes.strong("", said))
            items += nodes.list_item("", line)
        return [items]
