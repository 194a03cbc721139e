"""The detector of forget-like images on ten Gaussian classes, and the rule that picks a step."""

import numpy as np
import pytest

from vdu_jax import forget_detector

CENTRES = 2 * np.random.default_rng(99).normal(size=(10, 24))


def features(seed, labels):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(labels), 24))
    return (5 + CENTRES[labels] + noise).astype(np.float32)


@pytest.fixture(scope="module")
def case():
    """D_f of class 3; replay of all ten classes; what was learned from them."""
    labels = np.random.default_rng(0).integers(0, 10, 600)
    forget, replay = features(1, np.full(150, 3)), features(2, labels)
    return labels, forget, replay, forget_detector.fit_detector(forget, replay)


def test_forget_like_replay_is_found_and_little_else(case):
    labels, _, _, cleaning = case
    assert 40 < (labels == 3).sum() < 80
    assert cleaning.forget_like.shape == (600,) and cleaning.forget_like.dtype == bool
    assert cleaning.forget_like[labels == 3].mean() >= 0.9
    assert cleaning.forget_like[labels != 3].mean() <= 0.02


def test_new_images_are_judged_as_well(case):
    _, _, _, cleaning = case
    labels = np.random.default_rng(5).integers(0, 10, 2000)
    found = cleaning.detector.forget_like(features(6, labels))
    assert found[labels == 3].mean() >= 0.9 and found[labels != 3].mean() <= 0.02


def test_recall_is_the_share_of_the_forget_data_that_is_recognised(case):
    _, forget, _, cleaning = case
    assert cleaning.recall >= 0.97
    assert cleaning.recall == pytest.approx(cleaning.detector.forget_like(forget).mean(), abs=0.03)


def test_a_shift_between_real_and_generated_images_does_not_hide_the_forget_like_ones():
    """Replay is shifted as a whole. Without the last round only 66 % of them are found."""
    rng = np.random.default_rng(0)
    centres, shift = 1.2 * rng.normal(size=(10, 24)), 0.5 * rng.normal(size=24)
    labels = rng.integers(0, 10, 1000)
    forget = centres[3] + rng.normal(size=(150, 24))
    replay = centres[labels] + rng.normal(size=(1000, 24)) + shift
    found = forget_detector.fit_detector(forget, replay).forget_like
    assert found[labels == 3].mean() >= 0.95 and found[labels != 3].mean() <= 0.02


def test_scores_are_linear_in_the_features(case):
    _, forget, replay, cleaning = case
    rule = cleaning.detector
    x, y = forget[:5], replay[:5]
    mixed = rule.scores(0.25 * x + 0.75 * y)
    np.testing.assert_allclose(mixed, 0.25 * rule.scores(x) + 0.75 * rule.scores(y), atol=1e-4)
    at_centre = rule.scores(rule.centre[None])
    np.testing.assert_allclose(at_centre, rule.bias)
    np.testing.assert_allclose(
        rule.scores((rule.centre + rule.scale * np.eye(24)[4])[None]), rule.bias + rule.weight[4]
    )


def test_the_standardisation_is_that_of_the_replay(case):
    _, _, replay, cleaning = case
    np.testing.assert_allclose(cleaning.detector.centre, replay.mean(0, dtype=float), rtol=1e-6)
    np.testing.assert_allclose(cleaning.detector.scale, replay.std(0, dtype=float), rtol=1e-4)


def test_the_threshold_separates(case):
    _, forget, replay, cleaning = case
    rule = cleaning.detector
    np.testing.assert_array_equal(rule.forget_like(replay), rule.scores(replay) >= 0)
    everything = rule._replace(bias=np.inf).forget_like(replay)
    nothing = rule._replace(bias=-np.inf).forget_like(forget)
    assert everything.all() and not nothing.any()


def test_the_rate_is_the_share_that_is_forget_like(case):
    _, _, _, cleaning = case
    rule = cleaning.detector
    unseen, others = features(7, np.full(1000, 3)), features(8, np.full(1000, 5))
    assert rule.rate(unseen) == pytest.approx(1, abs=0.03) and rule.rate(others) <= 0.01
    mixed = np.concatenate([unseen[:100], others[:900]])
    assert rule.rate(mixed) == rule.forget_like(mixed).mean() == pytest.approx(0.1, abs=0.01)


def test_scale_and_shift_of_the_features_do_not_matter(case):
    _, forget, replay, cleaning = case
    factor, shift = np.geomspace(0.01, 100, 24), np.linspace(-50, 50, 24)
    other = forget_detector.fit_detector(forget * factor + shift, replay * factor + shift)
    assert (other.forget_like != cleaning.forget_like).mean() < 0.01


def test_clean_replay_loses_little():
    labels = np.random.default_rng(0).choice([0, 1, 2, 4, 5, 6, 7, 8, 9], 600)
    cleaning = forget_detector.fit_detector(features(1, np.full(150, 3)), features(2, labels))
    assert cleaning.forget_like.mean() <= 0.02


def test_many_forget_like_images_in_replay_do_not_blur_the_boundary():
    """Half of replay is forget-like: what is found must not stay among the negatives."""
    found, false = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        labels = np.where(rng.random(600) < 0.5, 3, rng.choice([0, 1, 2, 4, 5, 6, 7, 8, 9], 600))
        centres = 0.7 * rng.normal(size=(10, 24))
        forget, replay = (centres[y] + rng.normal(size=(len(y), 24)) for y in ([3] * 60, labels))
        removed = forget_detector.fit_detector(forget, replay).forget_like
        found.append(removed[labels == 3].mean())
        false.append(removed[labels != 3].mean())
    assert np.mean(found) >= 0.87 and np.mean(false) <= 0.03


def test_a_constant_feature_does_no_harm(case):
    _, forget, replay, cleaning = case
    padded = [np.pad(x, ((0, 0), (0, 1)), constant_values=7) for x in (forget, replay)]
    other = forget_detector.fit_detector(*padded)
    assert np.isfinite(other.detector.scores(padded[1])).all()
    assert (other.forget_like != cleaning.forget_like).mean() < 0.01


def test_it_is_deterministic_in_its_seed(case):
    _, forget, replay, cleaning = case
    again = forget_detector.fit_detector(forget, replay)
    np.testing.assert_array_equal(again.forget_like, cleaning.forget_like)
    for a, b in zip(again.detector, cleaning.detector, strict=True):
        np.testing.assert_array_equal(a, b)
    blurred = [x + 4 * np.random.default_rng(0).normal(size=x.shape) for x in (forget, replay)]
    one, other = (forget_detector.fit_detector(*blurred, seed=seed) for seed in (0, 1))
    assert (one.forget_like != other.forget_like).any()  # the folds are others


@pytest.mark.parametrize("sizes", [(9, 50), (50, 9)])
def test_too_few_images_raise(sizes):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 10 images of each kind"):
        forget_detector.fit_detector(*(rng.normal(size=(n, 3)) for n in sizes))


def test_replay_that_is_nothing_but_forget_data_raises():
    """A replay that the forget data outranks everywhere leaves no negatives."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 2))
    with pytest.raises(ValueError, match="every replay image looks like the forget data"):
        forget_detector.fit_detector(np.tile(rows[:1], (20, 1)), np.tile(rows[:1], (20, 1)))


def kernel_case():
    """Two far groups in the plane: D_f and half of replay in one, the rest in the other."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    centres = np.array([[-0.5, 0.0], [0.5, 0.0]])
    forget, replay = (
        centres[y] + 0.1 * rng.normal(size=(len(y), 2)) for y in (np.ones(50, int), labels)
    )
    return labels, forget, replay


def test_kernels_find_what_lies_among_the_forget_data():
    labels, forget, replay = kernel_case()
    some = (labels == 1) & (np.arange(200) % 2 == 0)
    found = forget_detector.kernel_forget_like(forget, replay, some, signal=0.98)
    np.testing.assert_array_equal(found, labels == 1)


def test_kernels_keep_what_is_found_and_add_nothing_to_nothing():
    labels, forget, replay = kernel_case()
    wrong = (labels == 1) | (np.arange(200) == np.flatnonzero(labels == 0)[0])
    np.testing.assert_array_equal(
        forget_detector.kernel_forget_like(forget, replay, wrong, signal=0.98), wrong
    )
    none = np.zeros(200, bool)
    np.testing.assert_array_equal(
        forget_detector.kernel_forget_like(forget, replay, none, signal=0.98), none
    )


def test_kernels_agree_with_the_density_of_noised_images():
    """One round against scipy's kernel density, which leaves nothing out: it is taken away here."""
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(1)
    forget, replay = rng.normal(size=(7, 3)), rng.normal(size=(30, 3))
    found, signal = rng.random(30) < 0.4, 0.8
    share, expected = found.mean(), []
    for i, point in enumerate(replay):
        others = replay[~found & (np.arange(30) != i)]
        kernel = multivariate_normal(np.sqrt(signal) * point, (1 - signal) * np.eye(3))
        of_forget = kernel.pdf(np.sqrt(signal) * forget).sum() / len(forget)
        of_rest = kernel.pdf(np.sqrt(signal) * others).sum() / np.sum(~found)
        expected.append(found[i] or share * of_forget > (1 - share) * of_rest)
    actual = forget_detector.kernel_forget_like(forget, replay, found, signal, rounds=1)
    assert 0 < (actual & ~found).sum() < (~found).sum()
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("original", "rate", "expected"),
    [(0.1, 0.0, 100.0), (0.1, 0.05, 50.0), (0.1, 0.1, 0.0), (0.1, 0.3, -200.0), (0.0, 0.2, 0.0)],
)
def test_estimated_pul(original, rate, expected):
    assert forget_detector.estimated_pul(original, rate) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        ([(10, 96, 3.0), (20, 99, 2.0), (30, 94, 0.1)], 20),  # least drift of those that reach it
        ([(10, 95, 3.0), (20, 94.9, 1.0)], 10),  # the target itself is enough
        ([(20, 97, 2.0), (10, 96, 2.0)], 10),  # equal drift: the earlier step
        ([(10, 50, 1.0), (20, 80, 9.0), (30, 70, 2.0)], 20),  # none reaches it: the highest
        ([(20, 80, 1.0), (10, 80, 2.0)], 10),  # none, equal: the earlier step
        ([(0, -5, 0.0)], 0),
    ],
)
def test_choose_step(rows, step):
    chosen, reason = forget_detector.choose_step(
        [forget_detector.Snapshot(*row, 100.0) for row in rows], 95
    )
    assert chosen == step
    reached = sum(pul >= 95 for _, pul, _ in rows)
    assert (f"the {reached} steps" if reached else "no step reaches 95 %") in reason


@pytest.mark.parametrize(
    ("last", "step"),
    [
        ((30, 96, 9.0, 99), 30),  # whatever its drift
        ((30, 94, 9.0, 95), 30),  # the target lies in its interval
        ((30, 94, 9.0, 94.9), 20),  # it has not forgotten enough; the usual rule
    ],
)
def test_the_last_step_of_a_decaying_rate_is_kept_unless_it_surely_forgets_too_little(last, step):
    rows = [(10, 99, 2.0, 100.0), (20, 96, 1.0, 98.0), last]
    snapshots = [forget_detector.Snapshot(*row) for row in rows]
    chosen, reason = forget_detector.choose_step(snapshots, 95, decays=True)
    assert chosen == step and ("decayed" in reason) == (step == 30)
    assert forget_detector.choose_step(snapshots, 95)[0] == 20


def test_a_snapshots_interval_is_that_of_its_rate():
    """Wilson's, by hand."""
    found = forget_detector.make_snapshot(5, 0.1, 0.04, 100, 0.5)
    low = (0.04 + 1.96**2 / 200 - 1.96 * np.sqrt(0.04 * 0.96 / 100 + 1.96**2 / 40000)) / (
        1 + 1.96**2 / 100
    )
    assert found == pytest.approx((5, 60.0, 0.5, 100 * (1 - low / 0.1)), rel=1e-4)
    assert forget_detector.make_snapshot(5, 0.1, 0.0, 100, 0.5).estimated_pul_high == 100


def test_choose_step_needs_a_snapshot():
    with pytest.raises(ValueError, match="no snapshot"):
        forget_detector.choose_step([], 95)
