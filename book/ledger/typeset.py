"""Numbers as print sets them: a minus sign, powers of ten, units that stay with their number.

Records and code write -1.4, 7e-16 and "5.6 %" with the characters of a keyboard; pages should not.
"""

import re

__all__ = ["join_units", "typeset"]

MINUS = re.compile(r"(?<![\w.])-(?=\.?\d)")
POWER = re.compile(r"(?<=\d)e([-+]?)0*(\d+)\b")
UNIT = re.compile(r"(?<=\d) (?=%)")
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def typeset(text: str) -> str:
    """Set the numbers in a text.

    >>> typeset("-1.4 [-1.8, 7e-16], bar-1")
    '−1.4 [−1.8, 7 × 10⁻¹⁶], bar-1'
    """
    text = POWER.sub(lambda m: f" × 10{(m[1].strip('+') + m[2]).translate(RAISED)}", text)
    return join_units(MINUS.sub("−", text))


def join_units(text: str) -> str:
    """Keep numbers on a line with their per cent sign."""
    return UNIT.sub("\N{NO-BREAK SPACE}", text)
