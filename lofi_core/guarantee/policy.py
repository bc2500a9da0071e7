"""A promise on file: what to prune, when to ask again, and for which model that was certified.

A policy is JSON with a checksum. It is refused if the file was edited, and if model, weights, dtype
or processor are not those that it was certified for: the promise says nothing about any other.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lofi_core import leverage
from lofi_core.errors import LofiError
from lofi_core.guarantee import provenance
from lofi_core.pruners import Pruner, get_pruner

__all__ = ["VERSION", "Policy", "describe_pruner", "make_pruner"]

VERSION = 1
RULES = ("EnergyRank", "EffectiveRank")


@dataclass(frozen=True)
class Policy:
    """Which pruners answer, from which confidence on, and what is promised for whom.

    The promise: over the draw of the calibration images, the mean share per image of answers that
    count as a loss is above ``alpha`` with probability at most ``delta``.

    Parameters
    ----------
    pruners : tuple of dict
        ``name`` and ``parameters`` of each, in the order in which they are asked; then all tokens.
    threshold : float
        An answer stands if its confidence is at least this.
    confidence : {"margin", "ipr", "leverage"}
        See `lofi_core.guarantee.evidence.gather`.
    answers : {"closed", "free"}
        One of given choices, by its first token; or free text.
    longest : int
        Tokens of a reply; 1 for closed answers.
    alpha, delta, loss, bound
        The promise, and how it was tested.
    images, questions : int
        What it was calibrated on.
    coverage, cost, risk, risk_upper : float
        Found there: share of answers that stayed pruned, visual tokens of all passes as a share of
        all tokens, mean loss, and its upper bound with error ``delta``.
    chains : int
        Chains of budgets that were tested, each at ``delta / chains``.
    provenance : dict
        ``weights``, ``dtype``, ``processor``, ``family``, ``model``, ``data``, ``versions``,
        ``date``, ``commit``.

    Examples
    --------
    >>> from lofi_core import LoFi
    >>> describe_pruner(LoFi(keep=0.25))["name"]
    'lofi'
    """

    pruners: tuple[dict[str, Any], ...]
    threshold: float
    confidence: str
    answers: str
    longest: int
    alpha: float
    delta: float
    loss: str
    bound: str
    images: int
    questions: int
    coverage: float
    cost: float
    risk: float
    risk_upper: float
    chains: int = 1
    provenance: dict[str, Any] = field(default_factory=dict)

    def chain(self) -> list[Pruner]:
        """Make the pruners."""
        return [make_pruner(described) for described in self.pruners]

    def check(self, model: Any, processor: Any) -> None:
        """Refuse a model or a processor that the promise was not certified for.

        Raises
        ------
        LofiError
            If weights, dtype, family or processor differ, or the policy does not name one of them.
        """
        here = provenance.of_model(model) | {"processor": provenance.of_processor(processor)}
        there = {name: self.provenance.get(name) for name in here}
        if missing := [name for name, value in there.items() if not value]:
            raise LofiError(
                f"Policy.check: the policy does not say for which {missing} it was certified; "
                "expected calibrate(records, ..., model=model, processor=processor)"
            )
        if odd := {name: (there[name], here[name]) for name in here if there[name] != here[name]}:
            raise LofiError(
                f"Policy.check: certified for, and found: {odd}; expected the same: calibrate "
                "again, a promise for one model says nothing about another"
            )

    def to_json(self) -> str:
        """Return the policy with its checksum."""
        content = {"version": VERSION, **asdict(self)}
        return json.dumps({"policy": content, "sha256": _digest(content)}, indent=1) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the policy to a file."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def from_json(cls, text: str) -> "Policy":
        """Read a policy back.

        Raises
        ------
        LofiError
            If it is no policy, one of another version, or was edited.
        """
        try:
            whole = json.loads(text)
            content, digest = dict(whole["policy"]), whole["sha256"]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise LofiError(
                f"Policy: not a policy ({type(error).__name__}: {error}); expected a file that "
                "Policy.save wrote"
            ) from error
        if digest != _digest(content):
            raise LofiError(
                f"Policy: contents of SHA-256 {_digest(content)[:12]}, the file says "
                f"{str(digest)[:12]}; expected the same: an edited policy promises nothing, so "
                "calibrate again"
            )
        names = {each.name for each in fields(cls)}
        if content.pop("version", None) != VERSION or set(content) != names:
            raise LofiError(
                f"Policy: of another version, with {sorted(set(content) ^ names)} more or less; "
                f"expected version {VERSION}: calibrate again"
            )
        return cls(**content | {"pruners": tuple(content["pruners"])})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Policy":
        """Read a policy from a file.

        Raises
        ------
        LofiError
            As `from_json`, or if the file cannot be read.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LofiError(
                f"Policy.load: {path}: {error}; expected a file that Policy.save wrote"
            ) from error
        return cls.from_json(text)

    def generate(
        self, model: Any, processor: Any, inputs: Mapping[str, Any], **options: Any
    ) -> Any:
        """Answer a batch, see `lofi_core.guarantee.serving.answer`."""
        from lofi_core.guarantee.serving import answer

        return answer(self, model, processor, inputs, **options)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def describe_pruner(pruner: Pruner) -> dict[str, Any]:
    """Write a registered pruner down as its name and its parameters.

    Raises
    ------
    LofiError
        If it has no name, or a parameter that JSON cannot hold.
    """
    parameters = {each.name: _plain(pruner, getattr(pruner, each.name)) for each in fields(pruner)}
    if not pruner.name:
        raise LofiError(
            f"Policy: {type(pruner).__name__} is not registered; expected a pruner with a name, "
            "as in class Mine(Pruner, name='mine')"
        )
    return {"name": pruner.name, "parameters": parameters}


def make_pruner(described: Mapping[str, Any]) -> Pruner:
    """Make a pruner from what `describe_pruner` wrote."""
    return get_pruner(
        described["name"], **{name: _value(x) for name, x in described["parameters"].items()}
    )


def _plain(pruner: Pruner, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple) and all(isinstance(x, int | float) for x in value):
        return list(value)
    if type(value).__name__ in RULES:
        return {"rule": type(value).__name__, **asdict(value)}
    raise LofiError(
        f"Policy: {type(pruner).__name__} has the parameter {value!r}; expected numbers, words or "
        f"one of {RULES}, which a file can hold"
    )


def _value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return getattr(leverage, value["rule"])(**{k: v for k, v in value.items() if k != "rule"})
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
