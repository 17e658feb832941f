"""Allocations: counts per kernel against hand-worked numbers, slow versions and exhaustive search."""

import itertools

import numpy as np
import pytest

from keras_aeprune._layers import Kernel
from keras_aeprune._validation import InputError
from keras_aeprune.sparsity import allocation, patterns
from keras_aeprune.sparsity.allocation import ByLayer, Sensitivity, allocate, fits, get
from keras_aeprune.sparsity.masks import count_zeros

DENSE = Kernel("kernel")
SCORES = [np.arange(1, 11, dtype="float32").reshape(2, 5), np.arange(101, 111, dtype="float32")]
PATHS = ("in/kernel", "encoder/code/kernel", "encoder/wide/kernel", "out/kernel")
SHAPES = ((20, 10), (10, 3), (3, 3, 8, 16), (16, 20))
NAMES = ("uniform", "global", "erk", "sensitivity")


def kernels(pattern="unstructured", shapes=SHAPES, seed=0):
    rng = np.random.default_rng(seed)
    pattern = patterns.get(pattern)
    return [
        pattern.groups(rng.random(shape).astype("float32") * (1 + i), DENSE, PATHS[i])
        for i, shape in enumerate(shapes)
    ]


def method(name):
    rng = np.random.default_rng(1)
    if name != "sensitivity":
        return get(name)
    return Sensitivity({path: {0.5: float(rng.random()), 0.9: float(rng.random())} for path in PATHS})


def zeros(masks):
    return [int((~mask).sum()) for mask in masks]


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.85])
def test_uniform_gives_each_kernel_its_share(sparsity):
    masks = get("uniform")(SCORES, sparsity, [0, 0])
    expected = int(np.floor(sparsity * 10 + 0.5))
    for scores, mask in zip(SCORES, masks, strict=True):
        np.testing.assert_array_equal(mask.ravel(), np.arange(10) >= expected)
        assert mask.shape == scores.shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.25, 0.5, 0.8567, 0.99, 0.9999])
def test_totals_are_exact_to_one_weight(name, sparsity):
    found = kernels()
    masks = allocate(found, sparsity, allocation=method(name))
    total = min(int(np.floor(sparsity * 1702 + 0.5)), 1702 - len(found))
    # uniform rounds in each kernel by itself
    assert abs(sum(zeros(masks)) - total) <= (len(found) / 2 if name == "uniform" else 0)
    assert all(mask.any() for mask in masks)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.7003])
@pytest.mark.parametrize(
    "limits", [{"encoder": (0.1, 0.6), "in": (0, 1)}, {"in": (0, 0.5), "out": (0.2, 0.7)}], ids=str
)
def test_totals_are_exact_to_one_weight_under_limits_too(name, sparsity, limits):
    found = kernels()
    if sparsity == 0.7003 and "encoder" in limits:
        limits = {**limits, "encoder": (0.1, 0.9)}
    masks = allocate(found, sparsity, allocation=method(name), limits=limits)
    asked = sum(max(int(np.floor(sparsity * g.size + 0.5)), 0) for g in found)
    assert sum(zeros(masks)) in {int(np.floor(sparsity * 1702 + 0.5)), asked if name == "uniform" else None}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", ["1x4", "unit", "3x2 max"])
@pytest.mark.parametrize("sparsity", [0.1, 0.37, 0.5, 0.8])
def test_totals_of_patterns_are_exact_to_one_group(name, pattern, sparsity):
    found = kernels(pattern)
    masks = allocate(found, sparsity, allocation=method(name))
    groups_gone = [
        g.count - int(np.count_nonzero(patterns.get(pattern).groups(m.astype("float32"), DENSE).scores))
        for g, m in zip(found, masks, strict=True)
    ]
    counted = sum(k * g.cost for k, g in zip(groups_gone, found, strict=True))
    slack = max(g.cost for g in found) * (1 if name != "uniform" else len(found) / 2)
    assert abs(counted - sparsity * sum(g.size for g in found)) <= slack


@pytest.mark.parametrize("name", NAMES)
def test_two_of_four_reaches_exactly_its_own_sparsity(name):
    found = kernels("2:4", ((8, 6), (4, 3), (12, 5)))
    masks = allocate(found, 0.5, allocation=method(name))
    for mask in masks:
        assert np.all(mask.reshape(-1, 4, mask.shape[1]).sum(axis=1) == 2)
    with pytest.raises(InputError, match=r"got 0.6 of all 120 weights, allowed .*: 0.0000 to 0.5000"):
        allocate(found, 0.6, allocation=method(name))


def test_global_takes_the_low_scores_wherever_they_are():
    small, large = get("global")(SCORES, 0.4, [0, 0])
    assert (~small).sum() == 8
    assert large.all()


def test_global_over_blocks_is_one_threshold_over_the_pooled_scores():
    found = kernels("1x4", ((6, 8), (5, 12)))
    masks = allocate(found, 0.5, allocation="global")
    pooled = [mask.reshape(mask.shape[0], -1, 4).all(axis=2) for mask in masks]
    kept = np.concatenate([g.scores[p] for g, p in zip(found, pooled, strict=True)])
    gone = np.concatenate([g.scores[~p] for g, p in zip(found, pooled, strict=True)])
    assert kept.min() > gone.max()
    assert len(gone) == round(0.5 * 27)


@pytest.mark.parametrize("name", ["uniform", "global"])
def test_zeros_that_were_there_stay(name):
    assert sum(zeros(get(name)(SCORES, 0.1, [6, 3]))) == 9


def test_kernels_that_had_more_zeros_take_none_from_the_share_of_the_others_in_uniform():
    assert zeros(get("uniform")(SCORES, 0.3, [6, 0])) == [6, 3]
    assert zeros(get("global")(SCORES, 0.3, [0, 6])) == [0, 6]


@pytest.mark.parametrize("name", NAMES)
def test_floors_are_kept_kernel_by_kernel(name):
    floors = [150, 3, 400, 0]
    masks = allocate(kernels(), 0.5, allocation=method(name), floors=floors)
    assert all(z >= floor for z, floor in zip(zeros(masks), floors, strict=True))
    if name != "uniform":
        assert sum(zeros(masks)) == 851


@pytest.mark.parametrize("name", NAMES)
def test_one_weight_of_every_kernel_stays_and_empty_kernels_do_no_harm(name):
    one = patterns.Unstructured()
    found = [
        one.groups(np.ones(s), DENSE, p) for s, p in zip(((1, 1), (0, 3), (4, 4), (1, 2)), PATHS, strict=True)
    ]
    masks = allocate(found, 0.99, allocation=method(name))
    assert [int(mask.sum()) for mask in masks] == [1, 0, 1, 1]
    assert masks[1].shape == (0, 3)
    assert all(mask.all() for mask in allocate(found, 0.0, allocation=method(name)))


def test_no_kernels_at_all_are_no_masks():
    assert allocate([], 0.5) == []


def test_erk_keeps_in_proportion_to_the_sum_of_the_sides():
    masks = allocate(kernels(), 0.9, allocation="erk")
    sides = np.array([30, 13, 30, 36])
    density = 170 / sides.sum() * sides  # 1702 weights, 1532 zeros, none of the four exceeds density 1
    np.testing.assert_allclose([mask.sum() for mask in masks], density, atol=1)


def test_erk_leaves_a_kernel_dense_that_would_exceed_density_1():
    masks = allocate(kernels(), 0.6, allocation="erk")
    # 681 are kept. 13 / 109 and 30 / 109 of them are more than the first two kernels have, so these stay
    # dense, and the sides 30 and 36 share the other 451
    assert [int(mask.sum()) for mask in masks] == [200, 30, 205, 246]


def error_of(curve, size, count):
    hull = np.array(curve)
    return np.interp(count / size, hull[:, 0], hull[:, 1])


@pytest.mark.parametrize("seed", range(12))
def test_sensitivity_finds_the_smallest_summed_error_of_convex_curves(seed):
    rng = np.random.default_rng(seed)
    sizes, levels = (6, 8, 10), np.array([0.0, 0.25, 0.5, 0.75, 0.9])
    rises = [np.cumsum(np.diff(levels) * np.sort(rng.random(4))) for _ in sizes]  # slopes only grow
    curves = [np.stack([levels, [0, *rise]], 1) for rise in rises]
    errors = {p: c[1:].tolist() for p, c in zip(PATHS, curves, strict=False)}
    one = patterns.Unstructured()
    found = [one.groups(rng.random(n), DENSE, p) for n, p in zip(sizes, PATHS, strict=False)]
    counts = zeros(allocate(found, 0.5, allocation=Sensitivity(errors)))
    best = min(
        sum(error_of(c, n, k) for c, n, k in zip(curves, sizes, split, strict=True))
        for split in itertools.product(*(range(n) for n in sizes))
        if sum(split) == 12
    )
    got = sum(error_of(c, n, k) for c, n, k in zip(curves, sizes, counts, strict=True))
    steepest = max(np.diff(c[:, 1]).max() / 0.15 / n for c, n in zip(curves, sizes, strict=True))
    assert sum(counts) == 12
    assert best - 1e-12 <= got <= best + 3 * steepest  # whole weights: at most one piece per kernel is off


def test_sensitivity_worked_by_hand():
    errors = {"a": {0.5: 0.1, 0.9: 0.3}, "b": {0.5: 0.4, 0.9: 5.0}}
    one = patterns.Unstructured()
    found = [one.groups(np.arange(10.0), DENSE, p) for p in ("a", "b")]
    method = Sensitivity(errors)
    split = {s: zeros(allocate(found, s, allocation=method)) for s in (0.25, 0.45, 0.6, 0.7, 0.9)}
    # a: 0.02 per weight up to 5, then 0.05 up to 9; b: 0.08 up to 5, then 1.15; the tenth is kept
    assert split == {0.25: [5, 0], 0.45: [9, 0], 0.6: [9, 3], 0.7: [9, 5], 0.9: [9, 9]}


def test_sensitivity_convexifies_and_uses_unmeasured_sparsities_last():
    errors = {"a": {0.4: 9.0, 0.8: 0.2}, "b": {0.8: 3.0}}  # a's peak at 0.4 is passed over
    one = patterns.Unstructured()
    found = [one.groups(np.arange(10.0), DENSE, p) for p in ("a", "b")]
    assert zeros(allocate(found, 0.2, allocation=Sensitivity(errors))) == [4, 0]
    assert zeros(allocate(found, 0.8, allocation=Sensitivity(errors))) == [8, 8]
    assert zeros(allocate(found, 0.85, allocation=Sensitivity(errors))) == [9, 8]


def by_error(sizes, errors, sparsity, **options):
    one = patterns.Unstructured()
    found = [one.groups(np.arange(float(n)), DENSE, path) for n, path in zip(sizes, errors, strict=True)]
    return zeros(allocate(found, sparsity, allocation=Sensitivity(errors), **options))


def test_sensitivity_does_not_take_the_cheap_end_of_a_curve_without_its_dear_beginning():
    assert by_error((10, 10), {"a": {0.4: 4.0, 0.8: 4.2}, "b": {0.8: 2.4}}, 0.4) == [0, 8]


def test_sensitivity_counts_the_error_per_weight():
    assert by_error((10, 90), {"a": {0.5: 0.1}, "b": {0.5: 0.2}}, 0.2) == [0, 20]


def test_sensitivity_goes_on_with_the_next_cheapest_at_a_limit():
    errors = {"a": {0.9: 0.1}, "b": {0.9: 0.2}, "c": {0.9: 5.0}}
    assert by_error((10, 10, 10), errors, 0.4, limits={"a": (0.0, 0.5)}) == [5, 7, 0]


def test_a_dict_fixes_what_it_names_and_shares_out_the_rest():
    masks = allocate(kernels(), 0.3, allocation={"encoder/wide": 0.25, "out": (0.0, 0.3)})
    # 511 in all: 288 fixed, 96 at most in out, and the other 127 over 200 and 30 weights
    assert zeros(masks) == [110, 17, 288, 96]


def test_the_first_entry_that_fits_counts():
    masks = allocate(kernels(), 0.5, allocation={"encoder/code": 0.1, "encoder": 0.6, "in": 0.5})
    assert zeros(masks) == [100, 3, 691, 851 - 100 - 3 - 691]


def test_a_range_is_filled_like_a_kernel_without_an_entry_within_its_ends():
    wide, narrow = ({"in": (0.0, 1.0)}, {"in": (0.0, 0.2)})
    assert zeros(allocate(kernels(), 0.5, allocation=wide)) == [100, 15, 576, 160]
    first, *others = zeros(allocate(kernels(), 0.5, allocation=narrow))
    assert first == 40
    np.testing.assert_allclose(np.array(others) / (30, 1152, 320), (851 - 40) / 1502, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_limits_hold_for_every_allocation(name):
    limits = {"encoder": (0.3, 0.7), "o*": (0.5, 0.55)}
    masks = allocate(kernels(), 0.6, allocation=method(name), limits=limits)
    shares = [1 - mask.mean() for mask in masks]
    assert 0.3 <= shares[1] <= 0.7 and 0.3 <= shares[2] <= 0.7 and 0.5 <= shares[3] <= 0.55
    assert sum(zeros(masks)) == 1021


@pytest.mark.parametrize("name", NAMES)
def test_first_and_last_kernel_can_be_kept_denser(name):
    masks = allocate(kernels(), 0.7, allocation=method(name), ends=0.25)
    assert zeros(masks)[0] <= 50 and zeros(masks)[3] <= 80
    assert sum(zeros(masks)) == 1191


@pytest.mark.parametrize("name", NAMES)
def test_limits_that_are_possible_at_the_end_of_a_schedule_are_so_all_along(name):
    limits = {"in": (0.9, 1.0), "encoder/wide": (0.4, 0.4)}
    before = 0
    for sparsity in (0.0, 0.01, 0.1, 0.3, 0.5, 0.55):
        masks = allocate(kernels(), sparsity, allocation=method(name), limits=limits, final=0.55)
        assert sum(zeros(masks)) == int(np.floor(sparsity * 1702 + 0.5)) >= before
        assert zeros(masks)[2] == count_zeros(1152, 0.4 * sparsity / 0.55)
        before = sum(zeros(masks))
    assert zeros(masks)[0] >= 180 and zeros(masks)[2] == 461


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sparsity": 1.0}, "sparsity: got 1.0"),
        ({"final": 0.3}, "final: got 0.3, allowed: a fraction 0.5 <= final"),
        ({"limits": {"*": (0.0, 0.4)}}, "allowed by the limits and patterns: 0.0000 to 0.4001"),
        ({"limits": {"*": (0.8, 0.9)}}, "allowed by the limits and patterns: 0.800"),
        ({"allocation": {"*": 0.7}}, "allowed by the limits and patterns: 0.6998 to 0.6998"),
        ({"limits": {"dec": (0, 1)}}, "limits: got 'dec', allowed: what fits one of the kernels: in/kern"),
        ({"limits": {"in": 0.5}}, r"limits\['in'\]: got 0.5, allowed: \(low, high\)"),
        ({"limits": {"in": (0.9, 0.1)}}, "with low <= high"),
        ({"limits": {"in": (0.0, 1.5)}}, r"got 1.5, allowed: a fraction"),
        ({"limits": [0.5]}, r"limits: got \[0.5\], allowed: a dict"),
        ({"limits": {"in": (0.6, 1)}, "ends": 0.2}, "at least 0.6 and at most 0.2 for 'in/kernel'"),
        ({"ends": 2}, "ends: got 2"),
        ({"limits": {"in": (0, 0.2)}, "floors": [90, 0, 0, 0]}, "in/kernel: got 0.4500 of zeros already"),
        ({"allocation": {"in": 1.0}}, r"allocation\['in'\]: got 1.0"),
        ({"allocation": {}}, "entries: got"),
        ({"allocation": "by_layer"}, "entries: got None"),
        ({"allocation": "sensitivity"}, r"errors: got None, allowed: .*sensitivity_map\(model, data\)"),
        ({"allocation": Sensitivity({"in/kernel": {0.5: 1}})}, "missing: .'encoder/code/kernel'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(options, text):
    with pytest.raises(InputError, match=text) as caught:
        allocate(kernels(), options.pop("sparsity", 0.5), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("errors", [{}, {"a": {}}, {"a": {1.0: 1}}, {"a": {0.5: float("nan")}}, 3])
def test_errors_that_cannot_be_used_are_refused(errors):
    with pytest.raises(InputError, match="errors"):
        Sensitivity(errors)


def test_unknown_name_lists_the_known_ones():
    known = "by_layer, entropy, erk, global, sensitivity, uniform"
    with pytest.raises(InputError, match=f"allocation: got 'erk2', allowed: {known}"):
        allocation.get("erk2")


@pytest.mark.parametrize("one", [get("erk"), ByLayer({"in": (0.1, 0.3), "out": 0.2}), method("sensitivity")])
def test_a_serialized_allocation_splits_alike(one):
    again = get(allocation.serialize(one))
    assert again.get_config() == one.get_config()
    first, second = (zeros(allocate(kernels(), 0.5, allocation=each)) for each in (one, again))
    assert first == second


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("name", NAMES)
def test_random_kernels_limits_and_floors_keep_every_law(name, seed):
    rng = np.random.default_rng(seed)
    pattern = patterns.get(["unstructured", "1x3", "unit", "2x2 max"][seed % 4])
    shapes = [tuple(int(n) for n in rng.integers(1, 12, 2)) for _ in PATHS]
    found = [
        pattern.groups(rng.integers(0, 5, s).astype("float32"), DENSE, p)
        for s, p in zip(shapes, PATHS, strict=True)
    ]
    floors = [int(rng.integers(0, g.free // 3 + 1)) for g in found]
    limits = {"encoder/code": (0.1, 0.8), "out": (0.0, 0.9)}
    sparsity = float(rng.uniform(0.3, 0.7))
    masks = allocate(found, sparsity, allocation=method(name), floors=floors, limits=limits)
    again = allocate(found, sparsity, allocation=method(name), floors=floors, limits=limits)
    gone = []
    for g, mask, same, floor in zip(found, masks, again, floors, strict=True):
        np.testing.assert_array_equal(mask, same)
        back = pattern.groups(mask.astype("float32"), DENSE).scores
        assert set(np.unique(back)) <= {0.0, 1.0}, "a group is half alive"
        gone.append(int((back == 0).sum()))
        assert floor <= gone[-1] <= g.free
        assert g.scores[back == 0].max(initial=-1) <= g.scores[back == 1].min()
    if name != "uniform":
        counted = sum(k * g.cost for k, g in zip(gone, found, strict=True))
        total = max(
            np.floor(sparsity * sum(g.size for g in found) + 0.5),
            sum(f * g.cost for f, g in zip(floors, found, strict=True)),
        )
        full = sum(g.free * g.cost for g in found)
        assert counted <= total + max(g.cost for g in found)
        assert counted >= min(total, full) - max(g.cost for g in found) - sum(g.cost for g in found) * 0.5


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("code", True),
        ("encoder", True),
        ("encoder/code", True),
        ("encoder/*", True),
        ("*code", True),
        ("encoder/code/kernel", True),
        ("kernel", False),
        ("cod", False),
        ("code/kernel", False),
    ],
)
def test_names_paths_and_patterns_fit_a_kernel(pattern, expected):
    assert fits("encoder/code/kernel", pattern) is expected
