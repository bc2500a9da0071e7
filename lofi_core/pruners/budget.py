r"""How many visual tokens an image keeps: a fixed fraction, or as many as its spectrum needs.

    fixed fraction:   m = max(1, round(keep N)),      halves to the even neighbour, as Python rounds
    IPR-driven:       m = min { m >= floor N : |IPR(S_m) - IPR(X)| <= eps IPR(X) }
    outliers:         m = max(1, #{ i : score_i > Q3 + 1.5 (Q3 - Q1) })

S_m are the first m tokens in the pruner's order of preference. The published description of LoFi
speaks of IPR-driven dynamic pruning without saying how; this rule, its tolerance and its floor are
our reading. The outlier rule is that of PruMerge (arXiv 2403.15388) and TRIM (arXiv 2409.10994).
"""

from dataclasses import dataclass

from torch import Tensor

from lofi_core.errors import LofiError
from lofi_core.spectrum import ipr_path

__all__ = ["IPRBudget", "OutlierBudget", "check_fraction", "token_count"]


def token_count(keep: float, n: int) -> int:
    """Tokens kept of ``n``: ``max(1, round(keep * n))``.

    Examples
    --------
    >>> token_count(0.25, 576), token_count(0.001, 576), token_count(0.5, 5)
    (144, 1, 2)
    """
    return max(1, round(keep * n))


@dataclass(frozen=True)
class IPRBudget:
    """Keep, image by image, as few tokens as hold the image's IPR.

    Parameters
    ----------
    eps : float > 0
        Relative tolerance: ``|IPR(S_m) - IPR(X)| <= eps * IPR(X)``.
    floor : float in (0, 1]
        Never keep a smaller fraction than this.
    mean : float in [floor, 1], optional
        Pin the mean fraction over the images scored together (those of one call with equally many
        tokens). One tolerance is then solved for, and ``eps`` is not used: the images share out a
        fixed number of tokens, so that dynamic and fixed budgets compare at equal cost.
    center : bool
        Take the IPR of each prefix about its own mean token, as LoFi takes its scores.

    Examples
    --------
    >>> import torch
    >>> X = torch.eye(4)[[0, 1, 2, 3, 0, 1, 2, 3]][None]
    >>> IPRBudget(eps=0.01, floor=0.1, center=False).counts(X, torch.arange(8)[None])
    tensor([4])
    """

    eps: float = 0.1
    floor: float = 0.05
    mean: float | None = None
    center: bool = True

    def __post_init__(self) -> None:
        """Refuse tolerances and fractions that mean nothing."""
        check_fraction("IPRBudget", "floor", self.floor)
        if not self.eps > 0:
            raise LofiError(f"IPRBudget: eps={self.eps}; expected a positive number, e.g. 0.1")
        if self.mean is not None:
            check_fraction("IPRBudget", "mean", self.mean)
            if self.mean < self.floor:
                raise LofiError(
                    f"IPRBudget: mean={self.mean} below floor={self.floor}; expected floor <= mean"
                )

    def counts(self, X: Tensor, order: Tensor) -> Tensor:
        """Tokens to keep of each image.

        Parameters
        ----------
        X : Tensor, shape (B, N, D)
            Visual tokens.
        order : Tensor, shape (B, N), int64
            Each image's tokens, the ones to keep first.

        Returns
        -------
        Tensor, shape (B,), int64
            In [max(1, round(floor N)), N].
        """
        B, N = order.shape
        least = token_count(self.floor, N)
        path = ipr_path(X, order, self.center)
        # The smallest deviation met so far does not increase with m, so the misses are a prefix.
        missed = (path - path[:, -1:]).abs()[:, least - 1 :].cummin(-1).values
        if self.mean is None:
            return least + (missed > self.eps * path[:, -1:]).sum(-1)
        relative = (missed / path[:, -1:].clamp(min=1e-30))[:, :-1].flatten()
        spare = round(self.mean * B * N) - B * least
        worst = relative.argsort(descending=True, stable=True)[: max(0, spare)]
        return least + (worst // max(1, N - least)).bincount(minlength=B)


@dataclass(frozen=True)
class OutlierBudget:
    """Keep, image by image, the tokens whose score is an outlier on the upper side.

    Parameters
    ----------
    whisker : float >= 0
        A score is an outlier above ``Q3 + whisker * (Q3 - Q1)``, quartiles by linear interpolation.

    Examples
    --------
    >>> import torch
    >>> OutlierBudget().counts(torch.tensor([[1.0, 2.0, 3.0, 2.0, 9.0]]))
    tensor([1])
    """

    whisker: float = 1.5

    def __post_init__(self) -> None:
        """Refuse a negative whisker."""
        if not self.whisker >= 0:
            raise LofiError(f"OutlierBudget: whisker={self.whisker}; expected a number >= 0: 1.5")

    def counts(self, scores: Tensor) -> Tensor:
        """Tokens to keep, at least 1, shape (B,), given scores of shape (B, N)."""
        return (scores > self.fence(scores)).sum(-1).clamp(min=1)

    def fence(self, scores: Tensor) -> Tensor:
        """Value that outliers exceed, shape (B, 1), float64."""
        x = scores.double()
        q1, q3 = x.quantile(0.25, -1, keepdim=True), x.quantile(0.75, -1, keepdim=True)
        return q3 + self.whisker * (q3 - q1)


def check_fraction(caller: str, name: str, value: object) -> None:
    """Refuse anything but a number in (0, 1].

    Raises
    ------
    LofiError
        With the name of the caller and of the parameter.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise LofiError(
            f"{caller}: {name}={value!r}; expected a fraction in (0, 1]: for m of N tokens pass m/N"
        )
