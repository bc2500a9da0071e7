"""What can be held to fixed numbers on any machine: operations, waits, memory. Nothing is timed.

Tensors on the "meta" device have a shape and no values: whatever must see a value, as a host that
waits for an accelerator must, fails there; and memory is counted without being taken.
"""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import run
from benchmarks.counting import Counting
from benchmarks.measure import summary
from benchmarks.selection import CHOICE, PUBLISHED, exponent, published_divprune
from lofi_core import (
    EnergyRank,
    ipr,
    ipr_path,
    leverage_scores,
    prune_inputs,
    pruning,
)
from lofi_core.leverage import ridge_leverage_scores
from lofi_core.pruners import (
    DivPrune,
    InsidePruner,
    Random,
    ToMe,
    VisualTokens,
    pruner_names,
    registered,
)
from lofi_core.pruners.greedy import farthest_points, pivoted_cholesky
from lofi_core.vlm.encoding import encode_inputs
from tests.tiny import FAMILIES

MIB = 2**20


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def count(function: object, *args: object, **options: object) -> Counting:
    with Counting() as counted:
        function(*args, **options)  # type: ignore[operator]
    return counted


def test_the_counter_counts() -> None:
    x = torch.ones(256, 256)  # a quarter of a MiB
    with Counting() as counted:
        y = x + x
        z = y * y
        del y
        w = z.T.reshape(-1)  # a copy
        w.add_(1)
        bool(w.sum() > 0)
    assert counted.operations["add"] == counted.operations["mul"] == 1
    assert counted.operations["add_"] == 1 and counted.waits == 1
    assert counted.peak == pytest.approx(2 * x.nbytes, abs=64)


@pytest.mark.parametrize("center", [False, True])
def test_products_wait_for_nothing(center: bool) -> None:
    X, order = meta(2, 60, 90), torch.empty(2, 60, dtype=torch.int64, device="meta")
    ridge_leverage_scores(X, 0.1, relative=True, center=center)
    ipr(X, center)
    ipr_path(X, order, center)
    pivoted_cholesky(X @ X.mT, 15)
    farthest_points(X @ X.mT, 15)


@pytest.mark.parametrize(("loop", "per_pick"), [(pivoted_cholesky, 17), (farthest_points, 5)])
def test_operations_of_a_pick(loop: object, per_pick: int) -> None:
    """However many images and tokens there are."""
    for B, N in ((1, 60), (4, 90)):
        few, many = (count(loop, meta(B, N, N), m).launches for m in (10, 30))
        assert (many - few) / 20 == per_pick


def test_ten_thousand_tokens_fit() -> None:
    """Beyond the tokens themselves, 44 MiB: no N x N matrix, which would take 381."""
    X, order = meta(1, 10_000, 1152), torch.empty(1, 10_000, dtype=torch.int64, device="meta")
    tokens = X.nbytes
    whole = 4 * 10_000**2
    assert count(ridge_leverage_scores, X, 1.0, True, True).peak < 6 * tokens  # in float64
    assert count(ipr_path, X, order).peak < 2 * tokens + 512 * 10_000 * 8 * 4
    assert (
        count(ipr_path, X, order, center=True).peak
        < 6 * tokens + 512 * 10_000 * 8 * 4
        < 1.2 * whole
    )


def test_ipr_path_multiplies_each_pair_once() -> None:
    """Below the diagonal and in its blocks: half of the product, and an eighth more here."""
    from torch.utils.flop_counter import FlopCounterMode

    X = meta(2048, 64)
    with FlopCounterMode(display=False) as counter:
        ipr_path(X, torch.empty(2048, dtype=torch.int64, device="meta"))
    assert counter.get_total_flops() == 2 * 64 * 2048**2 * (4 + 1) // 8


def test_compiles_without_a_break() -> None:
    X = torch.randn(2, 24, 32, generator=torch.Generator().manual_seed(0))

    def scores(X: Tensor) -> Tensor:
        return leverage_scores(X, EnergyRank(0.9), "gram", center=True)

    compiled = torch.compile(scores, backend="eager", fullgraph=False)
    torch.testing.assert_close(compiled(X), scores(X), rtol=0, atol=1e-5)


@pytest.mark.parametrize("images", [1, 3])
def test_waits_of_prune_inputs(images: int) -> None:
    """As many for three images as for one: one for their placeholders, the rest for lengths.

    On the CPU two more look at tokens: whether all are finite, and at the masks of padding.
    """
    family = FAMILIES["llava"]
    inputs = family.inputs([[5, *["a"] * images, 3]])
    counted = count(prune_inputs, family.model(), inputs, Random(keep=0.5))
    assert counted.waits == 9


def test_report_costs_nothing_until_it_is_read() -> None:
    """No product for an IPR that nobody reads; then two an image, once, and the tokens go."""
    family = FAMILIES["llava"]
    encoded = encode_inputs(family.model(), family.inputs([[5, "a", "a", 3]]))
    with Counting() as counted:
        report = encoded.prune(Random(keep=0.5)).report
    assert counted.operations["mm"] == counted.operations["bmm"] == 0
    for image, picture in zip(report.images, encoded.pictures, strict=True):
        (held,) = image.held
        assert held.data_ptr() == picture.features.data_ptr()  # no copy
        with Counting() as counted:
            found = image.ipr_before, image.ipr_after, image.ipr_before
        assert counted.operations["mm"] == 2 and not image.held
        kept = picture.features[image.kept]
        assert found[:2] == (ipr(picture.features).item(), ipr(kept).item())


def test_a_long_report_holds_the_tokens_of_one_call() -> None:
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs([[5, "a", 3]])
    with torch.no_grad(), pruning(model, ToMe(keep=0.5)) as report:
        for _ in range(3):
            model(**inputs)
    assert [len(image.held) for image in report.images] == [0, 0, 2]  # tokens, and merged ones
    assert len({image.ipr_after for image in report.images}) == 1


def test_pixels_are_not_copied() -> None:
    family = FAMILIES["llava"]
    inputs, model = family.inputs([[5, "a", 3]]), family.model()
    seen = []
    tower = model.get_submodule("model.vision_tower")
    hook = tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("pixel_values", *args)), with_kwargs=True
    )
    try:
        pruned = prune_inputs(model, inputs, Random(keep=0.5))
    finally:
        hook.remove()
    assert seen[0].data_ptr() == inputs["pixel_values"].data_ptr()
    assert "pixel_values" not in pruned


def test_published_loop_chooses_what_ours_chooses() -> None:
    X = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
    ours = DivPrune(keep=0.25).ranking(VisualTokens(X[None]), 15)[0]
    assert published_divprune(X, 15).tolist() == ours.tolist()


def test_fits_and_summaries() -> None:
    assert exponent([1, 2, 4], [3.0, 12.0, 48.0]) == 2.0
    assert exponent([5], [1.0]) is None
    assert summary([3.0, 1.0, 2.0])["median"] == 2.0
    assert summary([3.0])["low"] == summary([3.0])["high"] == 3.0


def test_rehearsal_writes_every_part(tmp_path: Path) -> None:
    """The command that a GPU runs, in small shapes: random-weight LLaVA and Qwen2.5-VL included."""
    path = run.main(["--quick", "--device", "cpu", "--out", str(tmp_path)])
    parts = json.loads(path.read_text())["parts"]
    assert tuple(parts) == run.PARTS
    assert all(part["rows"] and part["machine"]["threads"] for part in parts.values())
    models = {row["model"] for row in parts["end to end"]["rows"]}
    assert models == {"SceneVLM", "LLaVA-1.5-7B", "Qwen2.5-VL-7B"}
    pruners = {row["pruner"]: row for row in parts["selection"]["rows"]}
    assert set(pruners) == {*pruner_names(), PUBLISHED}
    assert {name for name, row in pruners.items() if "median" not in row} == {"downsample"}
    assert {name for name, row in pruners.items() if row["timed"] == CHOICE} == {
        of.name for of in registered() if issubclass(of, InsidePruner)
    }
    found = {(row["algorithm"], row["B"]): row for row in parts["scoring"]["rows"]}
    assert found["sklearn randomized_svd", 1]["error"] > found["gram, rank 12", 1]["error"]
