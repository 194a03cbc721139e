"""Detect forget-like images with D_f and the model alone, and choose the snapshot to keep.

Two tasks need the detector and may see neither retained data nor the evaluation's classifier:
replay is cleaned of forget-like images, and the snapshot to keep is chosen by how many forget-like
images an unlearned model still draws. The detector uses the pretrained network's own features
(`models.network.make_feature_fn`) and learns from positive and unlabelled examples: D_f is
positive, replay (images of the original model, some of them forget-like) is unlabelled.

`fit_detector` fits a logistic classifier with balanced weights in three rounds. The first two set
D_f against the replay and detect the replay images that score above the quantile 1 − `recall` of
D_f. The second round leaves the images detected by the first out of the negatives (the two-step
scheme of Liu et al. 2003). If D_f represents the forget-like part of replay, the scores rank images
as the true posterior would (Elkan and Noto 2008). But D_f is real and replay is generated, and a
classifier sees that difference, too. The last round therefore counts the detected images among the
positives: both sides then have generated images, and the threshold is a log-odds of 0.

`kernel_forget_like` adds images that are closer to D_f and the detected images than to the rest in
pixel space.
"""

from typing import NamedTuple

import numpy as np

from vdu_jax.metrics import rates

FOLDS = 5  # of the cross-validation
# scikit-learn's C, a strong regularisation: D_f has few images for the number of features, and a
# flexible rule would memorise the forget-like images among the negatives.
REGULARISATION = 0.01


class Detector(NamedTuple):
    """A linear classifier on standardised features.

    Attributes:
      centre: (F,), subtracted from the features.
      scale: (F,), divides the centred features.
      weight: (F,), the weights of the log-odds.
      bias: (), the bias of the log-odds.
    """

    centre: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the log-odds (N,) that images with features (N, F) are forget-like."""
        standardised = (np.asarray(features, np.float64) - self.centre) / self.scale
        return standardised @ self.weight + self.bias

    def forget_like(self, features: np.ndarray) -> np.ndarray:
        """Return (N,) bool: True for features (N, F) with log-odds of at least 0."""
        return self.scores(features) >= 0

    def rate(self, features: np.ndarray) -> float:
        """Return the share in [0, 1] of forget-like images among features (N, F)."""
        return float(np.mean(self.forget_like(features)))


class Cleaning(NamedTuple):
    """A detector and its cross-validated predictions for the images that it was fitted on.

    Attributes:
      detector: the detector for other images, fitted on all images.
      forget_like: (N,) bool, the forget-like replay images, each predicted by a fold without it.
      recall: share of D_f detected, each image predicted by a fold without it, in [0, 1].
    """

    detector: Detector
    forget_like: np.ndarray
    recall: float


def fit_detector(
    forget_features: np.ndarray, replay_features: np.ndarray, recall: float = 0.8, seed: int = 0
) -> Cleaning:
    """Fit a detector of D_f against replay; see the module's docstring.

    Args:
      forget_features: (P, F) features of forget images, P ≥ 10.
      replay_features: (N, F) features of replay images, N ≥ 10.
      recall: share of D_f above the threshold of the first two rounds, in (0, 1).
      seed: seed of the folds.

    Returns:
      The detector and the forget-like replay images.

    Raises:
      ValueError: if there are too few images, or all replay looks like D_f.
    """
    if min(len(forget_features), len(replay_features)) < 2 * FOLDS:
        raise ValueError(
            f"{len(forget_features)} forget and {len(replay_features)} replay images; a detector "
            f"needs at least {2 * FOLDS} images of each kind"
        )
    centre = replay_features.mean(0, dtype=np.float64)
    scale = replay_features.std(0, dtype=np.float64) + 1e-6
    rows = (np.concatenate([forget_features, replay_features]) - centre) / scale
    is_forget = np.arange(len(rows)) < len(forget_features)

    def score(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        if negative.sum() < 2 * FOLDS:
            raise ValueError(
                "every replay image looks like the forget data; use more images of either kind"
            )
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
    from sklearn.linear_model import LogisticRegression  # slow to import, seldom needed

    model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=500)
    rows = np.concatenate([positive, negative])
    model.fit(rows, np.r_[np.ones(len(positive)), np.zeros(len(negative))])
    return model.coef_[0], float(model.intercept_[0])


def _cross_scores(
    rows: np.ndarray, positive: np.ndarray, negative: np.ndarray, seed: int
) -> np.ndarray:
    """Log-odds (N,) of every row, each by a model that was not fitted on it.

    Rows that are neither positive nor negative are predicted, too.
    """
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
    """Add replay images to the detected ones that are closer to D_f in pixel space.

    Noised to a level ᾱ, a finite set of images has the density of a mixture of Gaussians around √ᾱ
    times each image. A replay image x is forget-like if π p_f > (1 − π) p_r at √ᾱ x, where p_f is
    the density of D_f, p_r that of all other replay images that are not detected, and π the share
    of detected images.

    Args:
      forget: (P, …) in [-1, 1], the forget images.
      replay: (N, …) in [-1, 1], the replay images.
      detected: (N,) bool, the replay images that `fit_detector` found forget-like.
      signal: ᾱ in (0, 1); the nearer to 1, the fewer neighbours count.
      rounds: number of times that p_r and π are updated.

    Returns:
      (N,) bool: the detected and the added images.
    """
    forget, replay = (x.reshape(len(x), -1).astype(np.float64) for x in (forget, replay))
    result = np.asarray(detected)
    near_forget = _log_kernel(replay, forget, signal)
    among = np.logaddexp.reduce(near_forget, axis=1) - np.log(len(forget))
    near_replay = _log_kernel(replay, replay, signal)
    np.fill_diagonal(near_replay, -np.inf)
    for _ in range(rounds):
        share = result.mean()
        if not 0 < share < 1:
            break
        rest = np.logaddexp.reduce(near_replay[:, ~result], axis=1) - np.log(np.sum(~result))
        result = detected | (among - rest + np.log(share / (1 - share)) > 0)
    return result


def _log_kernel(points: np.ndarray, centres: np.ndarray, signal: float) -> np.ndarray:
    """Log-kernel −ᾱ ‖p − c‖² / (2 (1 − ᾱ)), (N, M), of points (N, D) and centres (M, D)."""
    squares = np.square(points).sum(1)[:, None] + np.square(centres).sum(1)
    return (2 * points @ centres.T - squares) * signal / (2 * (1 - signal))


def estimated_pul(original_rate: float, rate: float) -> float:
    """Estimate PUL in percent from the detector's rates: 100 (1 − rate / original_rate).

    Args:
      original_rate: share of the original's images that are forget-like, in [0, 1].
      rate: the same share of the unlearned model's images.

    Returns:
      The estimate, ≤ 100; 0 if the original draws no forget-like image.
    """
    return 100.0 * (1.0 - rate / original_rate) if original_rate > 0 else 0.0


class Snapshot(NamedTuple):
    """Scores of a snapshot of the unlearned model, from D_f and the model alone.

    Attributes:
      step: number of optimizer steps.
      estimated_pul: the function `estimated_pul` of the detector's rates, in percent.
      drift: distance ≥ 0 of the snapshot's images from cleaned replay.
      estimated_pul_high: upper end of the 95 % interval of `estimated_pul`, in percent.
    """

    step: int
    estimated_pul: float
    drift: float
    estimated_pul_high: float


def make_snapshot(
    step: int, original_rate: float, rate: float, count: int, drift: float
) -> Snapshot:
    """Make the `Snapshot` of a step from the detector's rates.

    Args:
      step: number of optimizer steps.
      original_rate: share of the original's images that are forget-like, in [0, 1]. It counts as
        exact: the few forget-like images of a snapshot make its rate far less certain.
      rate: share of the snapshot's images that are forget-like, in [0, 1].
      count: number of the snapshot's images, ≥ 1.
      drift: distance ≥ 0 of these images from cleaned replay.
    """
    low, _ = rates.interval(rate, count)
    high = estimated_pul(original_rate, low)
    return Snapshot(step, estimated_pul(original_rate, rate), drift, high)


def choose_step(
    snapshots: list[Snapshot], target_pul: float, decays: bool = False
) -> tuple[int, str]:
    """Choose the step to keep, from D_f and the model alone.

    1. If the learning rate decays to 0 and the 95 % interval of the last step's estimated PUL
       reaches the target: the last step. Its images are the best, and the measured differences to
       the other steps are chance.
    2. Else, if the estimated PUL of some steps reaches the target: the one with the least drift,
       whose images are closest to cleaned replay.
    3. Else: the step with the highest estimated PUL.

    Args:
      snapshots: the scores of at least one snapshot, in the order of their steps.
      target_pul: the PUL to reach, in percent.
      decays: whether the learning rate decays to 0 at the last snapshot.

    Returns:
      The step, and the reason in words.

    Raises:
      ValueError: if there is no snapshot.
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
