"""Telling forget-like images from others with D_f and the model alone.

Two places need this and may see neither retained data nor the evaluation's classifier: replay must
be cleaned of forget-like images, and the rule that picks the step to keep must know how many an
unlearned model still makes. Both use the pretrained network's own features (`models.network.
make_feature_fn`) and learning from positive and unlabelled examples: D_f is positive, replay
(images of the original model, forget-like ones among them) is unlabelled.

`fit_detector` is a logistic classifier with balanced weights, learned in three rounds. The first
two set D_f against the replay and take as found what scores above a share `recall` of D_f; the
second leaves out of the negatives what the first found (the two-step scheme of Liu et al. 2003).
Under the usual assumption that D_f represents the forget-like part of replay, the scores rank
images as the true posterior would (Elkan and Noto 2008). But D_f is real and replay is generated,
and a classifier sees that, too. So the last round counts what was found among the positives: both
sides then hold generated images, and log-odds of 0 is the threshold.

`kernel_forget_like` adds images that lie among D_f and what is found rather than among the rest,
whatever the features say of them.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from vdu_jax.metrics import rates

FOLDS = 5
# sklearn's C. Strong, because D_f is small against the number of features, and because a flexible
# rule would learn by heart the forget-like images that stand among the negatives.
REGULARISATION = 0.01


class Detector(NamedTuple):
    """A linear rule on standardised features.

    Attributes:
      centre, scale: (F,) of the standardisation. weight (F,), bias (): of the log-odds.
    """

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Log-odds (N,) of features (N, F)."""
        standardised = (np.asarray(features, np.float64) - self.centre) / self.scale
        return standardised @ self.weight + self.bias

    def forget_like(self, features: np.ndarray) -> np.ndarray:
        """(N,) bool: likelier forget-like than not."""
        return self.scores(features) >= 0

    def rate(self, features: np.ndarray) -> float:
        """Share of images that are forget-like, to be compared with another such share."""
        return float(np.mean(self.forget_like(features)))


class Cleaning(NamedTuple):
    """A detector and what it says of the replay images it was learned from.

    Attributes:
      detector: for other images.
      forget_like: (N,) bool, of the replay images, each judged by folds that did not see it.
      recall: share of D_f recognised by folds that did not see it.
    """

    detector: Detector
    forget_like: np.ndarray
    recall: float


def fit_detector(
    forget_features: np.ndarray, replay_features: np.ndarray, recall: float = 0.8, seed: int = 0
) -> Cleaning:
    """Learn a detector of D_f against replay; see the module's docstring.

    Args:
      forget_features: (P, F), P ≥ 10. replay_features: (N, F), N ≥ 10.
      recall: share of D_f that the first two rounds' threshold lets through, in (0, 1).
      seed: of the folds.

    Raises:
      ValueError: with too few images, or if all replay looks like D_f.
    """
    if min(len(forget_features), len(replay_features)) < 2 * FOLDS:
        raise ValueError(f"a detector needs at least {2 * FOLDS} images of each kind")
    centre = replay_features.mean(0, dtype=np.float64)
    scale = replay_features.std(0, dtype=np.float64) + 1e-6
    rows = (np.concatenate([forget_features, replay_features]) - centre) / scale
    is_forget = np.arange(len(rows)) < len(forget_features)

    def score(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        if negative.sum() < 2 * FOLDS:
            raise ValueError("every replay image looks like the forget data; use more of either")
        return _cross_scores(rows, positive, negative, seed)

    detected = np.zeros(len(rows), bool)
    for _ in range(2):
        scores = score(is_forget, ~is_forget & ~detected)
        detected = scores >= np.quantile(scores[is_forget], 1 - recall)
    positive = is_forget | detected
    scores = score(positive, ~positive)
    weight, bias = _fit(rows[positive], rows[~positive])
    detector = Detector(centre, scale, weight, np.asarray(bias))
    detected = scores >= 0
    return Cleaning(detector, detected[~is_forget], float(detected[is_forget].mean()))


def _fit(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression  # slow to import, and seldom needed

    model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=500)
    rows = np.concatenate([positive, negative])
    model.fit(rows, np.r_[np.ones(len(positive)), np.zeros(len(negative))])
    return model.coef_[0], float(model.intercept_[0])


def _cross_scores(
    rows: np.ndarray, positive: np.ndarray, negative: np.ndarray, seed: int
) -> np.ndarray:
    """Log-odds (N,) of every row, positive, negative or neither, by a model not fitted on it."""
    from sklearn.model_selection import StratifiedKFold

    scores = np.empty(len(rows))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(rows, positive):
        weight, bias = _fit(rows[train[positive[train]]], rows[train[negative[train]]])
        scores[test] = rows[test] @ weight + bias
    return scores


def kernel_forget_like(
    forget: np.ndarray, replay: np.ndarray, detected: np.ndarray, signal: float, rounds: int = 3
) -> np.ndarray:
    """What lies among D_f and the replay images found so far, rather than among the other ones.

    Noised to a level ᾱ, a finite set of images is a mixture of Gaussians around √ᾱ times each. An
    image is forget-like if, at √ᾱ times itself, π p_f > (1 − π) p_r, with p_f the mixture of D_f,
    p_r that of the replay not found but the image itself, and π the share that is found.

    Args:
      forget: (P, ...), replay: (N, ...), in [-1, 1]. detected: (N,) bool.
      signal: ᾱ in (0, 1); the nearer to 1, the fewer neighbours count.
      rounds: how often p_r and π are taken anew.

    Returns:
      (N,) bool: `detected` and what is added to it.
    """
    forget, replay = (x.reshape(len(x), -1).astype(np.float64) for x in (forget, replay))
    result = np.asarray(detected)
    near_forget = _log_kernel(replay, forget, signal)
    among = logsumexp(near_forget, axis=1) - np.log(len(forget))
    near_replay = _log_kernel(replay, replay, signal)
    np.fill_diagonal(near_replay, -np.inf)
    for _ in range(rounds):
        share = result.mean()
        if not 0 < share < 1:
            break
        rest = logsumexp(near_replay[:, ~result], axis=1) - np.log(np.sum(~result))
        result = detected | (among - rest + np.log(share / (1 - share)) > 0)
    return result


def _log_kernel(points: np.ndarray, centres: np.ndarray, signal: float) -> np.ndarray:
    """−ᾱ ‖p − c‖² / (2 (1 − ᾱ)), (N, M), of points (N, D) and centres (M, D)."""
    squares = np.square(points).sum(1)[:, None] + np.square(centres).sum(1)
    return (2 * points @ centres.T - squares) * signal / (2 * (1 - signal))


def estimated_pul(original_rate: float, rate: float) -> float:
    """100 (1 − rate / original_rate), the detector's own estimate of PUL in percent."""
    return 100.0 * (1.0 - rate / original_rate) if original_rate > 0 else 0.0


class Snapshot(NamedTuple):
    """What the rule knows of a step.

    Attributes:
      step: of the optimiser.
      estimated_pul: in percent; see `estimated_pul`.
      drift: distance of the images from the replay.
      estimated_pul_high: upper end of the 95 % interval of `estimated_pul`.
    """

    step: int
    estimated_pul: float
    drift: float
    estimated_pul_high: float


def make_snapshot(
    step: int, original_rate: float, rate: float, count: int, drift: float
) -> Snapshot:
    """The `Snapshot` of a step.

    Args:
      original_rate: share of the original's images that are forget-like; taken as exact, since the
        few forget-like images of a snapshot are far less certain.
      rate: the same share of the snapshot's `count` images.
    """
    low, _ = rates.interval(rate, count)
    high = estimated_pul(original_rate, low)
    return Snapshot(step, estimated_pul(original_rate, rate), drift, high)


def choose_step(
    snapshots: list[Snapshot], target_pul: float, decays: bool = False
) -> tuple[int, str]:
    """The step to keep, and why, from D_f and the model alone.

    If the learning rate decays to 0, the last step: its images are the best, and what the rule
    measures of the others differs by chance. It is passed over only where the interval of its
    estimated PUL does not reach the target.

    Otherwise, among the steps whose estimated PUL reaches the target, the one whose images stay
    closest to the cleaned replay (Fréchet distance in the network's own features). If none reaches
    it, the one with the highest estimate.

    Args:
      target_pul: in percent.
      decays: whether the learning rate decays to 0 at the last snapshot.

    Raises:
      ValueError: without snapshots.
    """
    if not snapshots:
        raise ValueError("no snapshot to choose from")
    last = snapshots[-1]
    if decays and last.estimated_pul_high >= target_pul:
        return last.step, "the last step, at which the learning rate has decayed to 0"
    reached = [s for s in snapshots if s.estimated_pul >= target_pul]
    if reached:
        best = min(reached, key=lambda s: (s.drift, s.step))
        return best.step, f"least drift among the {len(reached)} steps that reach the target"
    best = max(snapshots, key=lambda s: (s.estimated_pul, -s.step))
    return best.step, f"no step reaches {target_pul:g} %; the highest estimate"
