r"""Watch the promise live: repeat a random share of the traffic with all tokens, and bet.

Each unit (an image, or a request) is drawn with probability ``share``; its loss x in [0, 1] is the
share of its answers that differ. Two processes run, both valid at any time, so that one may look
after every answer:

* the **alarm** bets against "the flip rate is at most alpha". With f(x) = 1 + b (x - alpha) for a
  bet b in (0, 1/alpha), money w_t = 1 / (t (t + 1)) enters the game at draw t, and all that is in
  it is multiplied by f(x_t): S_t = (S_{t-1} + w_t) f(x_t). With what has not entered yet, the
  wealth M_t = S_t + 1 / (t + 1) is a supermartingale as long as the rate is at most alpha, and
  exceeds 1 / delta with probability at most delta, ever. The late money sees a drift that begins
  late. M_t is averaged over bets that suit rates of 1.5, 2, 4 and 8 alpha.
* the **interval** is for a rate r that stays the same: {r : B(1/2 + s, 1/2 + t - s) / B(1/2, 1/2)
  <= r^s (1 - r)^(t - s) / delta}, s being the sum of t losses, from betting with a mixture over all
  rates. For losses in between, x log and (1 - x) log are at most what their mean would give.

Shin, Ramdas and Rinaldo (2023) for money that enters late; Waudby-Smith and Ramdas (2024).
"""

import json
import math
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lofi_core.errors import LofiError, extra
from lofi_core.guarantee.bounds import check_level
from lofi_core.guarantee.policy import Policy

with extra("eval"):
    from scipy import optimize
    from scipy.special import betaln, xlog1py, xlogy

__all__ = ["Monitor"]

VERSION = 1
TIMES = (1.5, 2.0, 4.0, 8.0)  # alpha; rates that the bets are made for


class Monitor:
    """Says when a policy's promise no longer holds, with error at most delta at any time.

    Parameters
    ----------
    alpha : float in (0, 1)
        Limit of the flip rate.
    delta : float in (0, 1)
        Probability of an alarm, ever, while the rate is at most alpha.
    share : float in (0, 1)
        Of the units, how many to repeat with all tokens.
    seed : int
        Of the draw.

    Examples
    --------
    >>> monitor = Monitor(alpha=0.05, delta=0.05, share=0.5, seed=0)
    >>> for x in [0.0] * 200:
    ...     monitor.update([x], [0])
    >>> monitor.alarm, [round(edge, 3) for edge in monitor.interval()]
    (False, [0.0, 0.031])
    >>> for x in [1.0, 0.0] * 20:
    ...     monitor.update([x], [0])
    >>> monitor.alarm
    True
    """

    def __init__(self, alpha: float, delta: float = 0.05, share: float = 0.05, seed: int = 0):
        for name, value in (("alpha", alpha), ("delta", delta), ("share", share)):
            check_level("Monitor", name, value)
        self.alpha, self.delta, self.share, self.seed = alpha, delta, share, seed
        self.units = 0  # offered
        self.drawn = 0
        self.total = 0.0  # sum of their losses
        self.in_game = [0.0] * len(self._bets())
        self.first_alarm: int | None = None

    @classmethod
    def of(cls, policy: Policy, share: float = 0.05, seed: int = 0) -> "Monitor":
        """Watch a policy's promise, with its alpha and its delta.

        Raises
        ------
        LofiError
            If the promise is about broken answers: which are, cannot be seen live.
        """
        if policy.loss != "changed":
            raise LofiError(
                f"Monitor: a promise about loss={policy.loss!r}, for which the true answers would "
                "have to be known; expected 'changed': calibrate a policy for that, and watch it"
            )
        return cls(policy.alpha, policy.delta, share, seed)

    def pick(self, units: Iterable[Hashable]) -> set[Hashable]:
        """Draw units to repeat; the draw depends on seed and number alone, also after a restart."""
        picked = set()
        for unit in dict.fromkeys(units):
            if np.random.default_rng((self.seed, self.units)).random() < self.share:
                picked.add(unit)
            self.units += 1
        return picked

    def update(self, losses: Sequence[float], units: Sequence[Hashable]) -> None:
        """Enter what was drawn: the loss of each answer, and the unit that it belongs to.

        Raises
        ------
        LofiError
            If a loss is not in [0, 1], or there are not as many units.
        """
        if len(losses) != len(units) or not all(0 <= x <= 1 for x in losses):
            raise LofiError(
                f"Monitor.update: losses={list(losses)} of {len(units)} units; expected one unit "
                "for each, and numbers in [0, 1]"
            )
        together: dict[Hashable, list[float]] = {}
        for x, unit in zip(losses, units, strict=True):
            together.setdefault(unit, []).append(x)
        for values in together.values():
            self._enter(sum(values) / len(values))

    def _enter(self, x: float) -> None:
        self.drawn += 1
        self.total += x
        fresh = 1 / (self.drawn * (self.drawn + 1))
        for i, bet in enumerate(self._bets()):
            self.in_game[i] = (self.in_game[i] + fresh) * (1 + bet * (x - self.alpha))
        if self.first_alarm is None and self.wealth >= 1 / self.delta:
            self.first_alarm = self.drawn

    def _bets(self) -> list[float]:
        """Bets of the fastest growth at each of the rates, (r - alpha) / (alpha (1 - alpha))."""
        rates = [min(times * self.alpha, (1 + self.alpha) / 2) for times in TIMES]
        return [(rate - self.alpha) / (self.alpha * (1 - self.alpha)) for rate in rates]

    @property
    def wealth(self) -> float:
        """M_t; 1 to begin with."""
        return sum(self.in_game) / len(self.in_game) + 1 / (self.drawn + 1)

    @property
    def alarm(self) -> bool:
        """Whether the wealth ever exceeded 1 / delta."""
        return self.first_alarm is not None

    def interval(self) -> tuple[float, float]:
        """Confidence sequence for the flip rate, for a rate that stays the same."""
        t, s = self.drawn, self.total
        if not t:
            return 0.0, 1.0
        ceiling = betaln(0.5 + s, 0.5 + t - s) - betaln(0.5, 0.5) + math.log(self.delta)

        def inside(r: float) -> float:
            return float(xlogy(s, r) + xlog1py(t - s, -r) - ceiling)

        mean = s / t
        low = optimize.brentq(inside, 0.0, mean) if inside(1e-12) < 0 < s else 0.0
        high = optimize.brentq(inside, mean, 1 - 1e-12) if inside(1 - 1e-12) < 0 else 1.0
        return low, high

    def units_to_see(self, rate: float, after: int = 0) -> int:
        r"""Units of traffic until a drift is seen, on average at most, after so many good ones.

        After d draws, the money of the next grows by KL(rate || alpha) per draw at the best bet b.
        By Wald's identity the alarm comes on average within ``(log(4 (d + 1) (d + 2) / delta) +
        log(1 + b (1 - alpha))) / KL`` draws; for a rate that no bet is made for, KL is that bet's
        growth.

        Parameters
        ----------
        rate : float in (alpha, 1)
            What the flip rate becomes, e.g. ``2 * alpha``.
        after : int
            Units of traffic before the drift.

        Raises
        ------
        LofiError
            If the rate is not above alpha.
        """
        if not self.alpha < rate < 1:
            raise LofiError(
                f"Monitor.units_to_see: rate={rate}, alpha={self.alpha}; expected alpha < rate < 1"
            )
        a, d = self.alpha, after * self.share
        growth, bet = max(
            (rate * math.log1p(bet * (1 - a)) + (1 - rate) * math.log1p(-bet * a), bet)
            for bet in self._bets()
        )
        wanted = math.log(len(TIMES) * (d + 1) * (d + 2) / self.delta)
        return math.ceil((wanted + math.log1p(bet * (1 - a))) / growth / self.share)

    def to_json(self) -> str:
        """Return the state, to go on after a restart."""
        return json.dumps({"version": VERSION, **vars(self)}, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file that is there in full or not at all."""
        part = Path(f"{os.fspath(path)}.part")
        part.write_text(self.to_json(), encoding="utf-8")
        part.replace(path)

    @classmethod
    def from_json(cls, text: str) -> "Monitor":
        """Go on from a state.

        Raises
        ------
        LofiError
            If it is no state of this version.
        """
        try:
            state: dict[str, Any] = json.loads(text)
            found = cls(*(state[name] for name in ("alpha", "delta", "share", "seed")))
            if state.pop("version") != VERSION or set(state) != set(vars(found)):
                raise KeyError(f"version {VERSION} and the fields {sorted(vars(found))}")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise LofiError(
                f"Monitor: not a state ({type(error).__name__}: {error}); expected what "
                "Monitor.save wrote"
            ) from error
        vars(found).update(state)
        return found

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Monitor":
        """Go on from a file, see `from_json`."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))
