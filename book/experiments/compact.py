"""Fewer bytes: probabilities in thousandths, figures with as many bits as mean something."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["NOT_ADMISSIBLE", "SCALE", "probability_matrix", "shorter", "split_probabilities"]

SCALE = 1000  # probabilities under a pruner are whole multiples of its inverse
NOT_ADMISSIBLE = 255  # code of an answer that is not among a question's choices
BITS = 9  # of the mantissa of figures: within 0.1 %


def split_probabilities(answers: pa.Table, exact: Sequence[int]) -> pa.Table:
    """Store the probabilities of some arms as they are, those of all others in thousandths.

    Parameters
    ----------
    answers : Table
        With columns ``arm`` and ``probabilities``, lists of float.
    exact : sequence of int
        Arms whose probabilities stay float32.

    Returns
    -------
    Table
        With ``thousandths``, lists of uint16, beside it; each row has one of the two.
    """
    place = answers.schema.get_field_index("probabilities")
    lists = answers["probabilities"].combine_chunks()
    stays = pc.is_in(answers["arm"], pa.array(exact, answers["arm"].type)).combine_chunks()
    values = np.round(lists.values.to_numpy() * SCALE).astype(np.uint16)
    short = pa.ListArray.from_arrays(lists.offsets, pa.array(values))
    nothing = pa.scalar(None)
    table = answers.set_column(place, "probabilities", pc.if_else(stays, lists, nothing))
    column = pc.if_else(stays, nothing, short)
    return table.add_column(place, "thousandths", column)


def probability_matrix(answers: pa.Table) -> np.ndarray:
    """Distributions (n, A) over each question's choices, filled up with zeros, summing to 1."""
    matrix = _matrix(answers["probabilities"])
    if "thousandths" in answers.column_names:
        matrix = matrix + _matrix(answers["thousandths"])
    return matrix / matrix.sum(1, keepdims=True)


def _matrix(lists: pa.ChunkedArray) -> np.ndarray:
    """Lists as rows of ten, filled up with zeros; a missing list is all zeros."""
    whole = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(whole), 0).to_numpy()
    matrix = np.zeros((len(lengths), 10))  # ten digits are the most that a question admits
    matrix[np.arange(10) < lengths[:, None]] = whole.flatten().to_numpy()
    return matrix


def shorter(table: pa.Table) -> pa.Table:
    """Round float32 figures to ``BITS`` significant bits."""
    for i, field in enumerate(table.schema):
        if field.type == pa.float32():
            mantissa, exponent = np.frexp(table.column(i).to_numpy())
            rounded = np.ldexp(np.round(mantissa * 2**BITS) / 2**BITS, exponent)
            table = table.set_column(i, field, pa.array(rounded.astype(np.float32)))
    return table
