"""The book's experiments: what is run, how, and what came of it.

    python -m book.experiments    run everything, write book/results

`load` reads the results that are committed, as tidy tables.
"""

from book.experiments.results import Results, load

__all__ = ["Results", "load"]
