"""Telling forget-like images from others with D_f and the model alone.

Two places need this and may see neither retained data nor the evaluation's classifier: replay must
be cleaned of forget-like images, and the rule that picks the step to keep must know how many an
unlearned model still makes. Both use the pretrained network's own features (`models.unet.
make_feature_fn`) and learning from positive and unlabelled examples: D_f is positive, replay
(images of the original model, forget-like ones among them) is unlabelled.

With balanced weights a logistic classifier of D_f against replay scores an image high where D_f
is dense relative to replay; under the usual assumption that D_f represents the forget-like part
of replay, that ranks images as the true posterior would (Elkan and Noto 2008). The threshold is
the score that a share `recall` of D_f exceeds when scored by folds that did not train on them.
A second round leaves out of the negatives what the first one found (the two-step scheme of Liu et
al. 2003), which sharpens the boundary.
"""

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

FOLDS = 5
# sklearn's C. Strong, because D_f is small against the number of features, and because a flexible
# rule would learn by heart the forget-like images that stand among the negatives.
REGULARISATION = 0.01
# Share of D_f above the threshold that counts. A rate is a ratio of counts, and far up the scores
# hardly any other image is counted (Forman 2008 on quantification); cleaning wants the opposite.
COUNT_RECALL = 0.75


class Detector(NamedTuple):
    """A linear rule on standardised features.

    Attributes:
      centre, scale: (F,) of the standardisation. weight (F,), bias (): of the log-odds.
      threshold: (), score from which an image is to be cleaned away.
      count_threshold: (), higher, the score from which it counts in a rate.
    """

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    threshold: np.ndarray
    count_threshold: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Log-odds (N,) of features (N, F)."""
        standardised = (np.asarray(features, np.float64) - self.centre) / self.scale
        return standardised @ self.weight + self.bias

    def forget_like(self, features: np.ndarray) -> np.ndarray:
        """(N,) bool: near enough to D_f to be cleaned away."""
        return self.scores(features) >= self.threshold

    def rate(self, features: np.ndarray) -> float:
        """Share of images that clearly look like D_f, to be compared with another such share."""
        return float(np.mean(self.scores(features) >= self.count_threshold))


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
    forget_features: np.ndarray, replay_features: np.ndarray, recall: float = 0.98, seed: int = 0
) -> Cleaning:
    """Learn a detector of D_f against replay; see the module's docstring.

    Args:
      forget_features: (P, F), P ≥ 10. replay_features: (N, F), N ≥ 10.
      recall: share of D_f to recognise, in (0, 1).
      seed: of the folds.

    Raises:
      ValueError: with too few images.
    """
    if min(len(forget_features), len(replay_features)) < 2 * FOLDS:
        raise ValueError(f"a detector needs at least {2 * FOLDS} images of each kind")
    centre = replay_features.mean(0, dtype=np.float64)
    scale = replay_features.std(0, dtype=np.float64) + 1e-6
    positive = (forget_features - centre) / scale
    unlabelled = (replay_features - centre) / scale
    found = np.zeros(len(unlabelled), bool)
    for _ in range(2):
        positive_scores, scores = _cross_scores(positive, unlabelled, ~found, seed)
        threshold = np.quantile(positive_scores, 1 - recall)
        found = scores >= threshold
        if found.all():
            raise ValueError("every replay image looks like the forget data; use more of either")
    weight, bias = _fit(positive, unlabelled[~found])
    count_threshold = np.quantile(positive_scores, 1 - min(COUNT_RECALL, recall))
    numbers = (np.float64(v) for v in (bias, threshold, count_threshold))
    detector = Detector(centre, scale, weight, *numbers)
    return Cleaning(detector, found, float(np.mean(positive_scores >= threshold)))


def _fit(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, float]:
    model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=500)
    rows = np.concatenate([positive, negative])
    model.fit(rows, np.r_[np.ones(len(positive)), np.zeros(len(negative))])
    return model.coef_[0], float(model.intercept_[0])


def _cross_scores(
    positive: np.ndarray, unlabelled: np.ndarray, is_negative: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of every row by a model that was not fitted on it."""
    rows = np.concatenate([positive, unlabelled])
    target = np.r_[np.ones(len(positive)), np.zeros(len(unlabelled))]
    usable = np.r_[np.ones(len(positive), bool), is_negative]
    scores = np.empty(len(rows))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(rows, target):
        train = train[usable[train]]
        weight, bias = _fit(rows[train[target[train] == 1]], rows[train[target[train] == 0]])
        scores[test] = rows[test] @ weight + bias
    return scores[: len(positive)], scores[len(positive) :]


def estimated_pul(original_rate: float, rate: float) -> float:
    """100 (1 − rate / original_rate), the detector's own estimate of PUL in percent."""
    return 100.0 * (1.0 - rate / original_rate) if original_rate > 0 else 0.0


class Snapshot(NamedTuple):
    """What the rule knows of a step: estimated PUL (percent) and drift from the replay."""

    step: int
    estimated_pul: float
    drift: float


def choose_step(snapshots: list[Snapshot], target_pul: float) -> tuple[int, str]:
    """The step to keep, and why, from D_f and the model alone.

    Among the steps whose estimated PUL reaches the target, the one whose images stay closest to
    the cleaned replay (Fréchet distance in the network's own features). If none reaches it, the
    one with the highest estimate.

    Raises:
      ValueError: without snapshots.
    """
    if not snapshots:
        raise ValueError("no snapshot to choose from")
    reached = [s for s in snapshots if s.estimated_pul >= target_pul]
    if reached:
        best = min(reached, key=lambda s: (s.drift, s.step))
        return best.step, f"least drift among the {len(reached)} steps that reach the target"
    best = max(snapshots, key=lambda s: (s.estimated_pul, -s.step))
    return best.step, f"no step reaches {target_pul:g} %; the highest estimate"
