"""Time the metrics of `vdu evaluate`, and pytorch-fid's Inception features and Fréchet distance.

    python benchmarks/evaluation.py [--images=5000] [--repeats=5] [--json=FILE]

Inception features are timed on 50 images; they are most of the work of an evaluation that uses
them. The other metrics are timed on features of shape (images, 2048), one set of the model and one
of the data, as in `vdu evaluate`. Weights and features are random, which does not affect the times.
Each side runs in its own process, and the two take turns. Needs the extra torch. Takes 4 minutes on
2 cores.
"""

import argparse
import os
from functools import partial

import timing

from vdu_jax import cli

DIMENSIONS, PIXELS, BATCH = 2048, 32, 50
BOTH = ("Inception features, 50 images", "Fréchet distance")
OURS_ALONE = ("KID", "precision and recall", "PUL and its interval")


def feature_sets(count: int):
    """Return two arrays of features (count, DIMENSIONS) and BATCH uint8 images."""
    import numpy as np

    rng = np.random.default_rng(0)
    sets = rng.standard_normal((2, count, DIMENSIONS), np.float32)
    return *sets, rng.integers(0, 256, (BATCH, PIXELS, PIXELS, 3), np.uint8)


def ours(count: int) -> dict:
    """Return name -> timed call of this package."""
    import jax
    import numpy as np

    from vdu_jax.metrics import frechet, kid, precision_recall, pul
    from vdu_jax.models import inception
    from vdu_jax.parity import components
    from vdu_jax.tasks import base

    drawn, data, images = feature_sets(count)
    compute = partial(
        jax.jit(inception.make_feature_fn(inception.InceptionV3())), components.inception_params()
    )
    probabilities = np.random.default_rng(1).dirichlet(np.ones(10), (2, count))

    def distance():
        frechet.frechet_distance(frechet.feature_stats(drawn), frechet.feature_stats(data))

    calls = (
        lambda: base.map_batches(compute, images, BATCH),
        distance,
        lambda: kid.kid(drawn, data),
        lambda: precision_recall.precision_recall(drawn, data),
        lambda: pul.pul(*probabilities, (3,)),
    )
    return dict(zip(BOTH + OURS_ALONE, calls, strict=True))


def theirs(count: int) -> dict:
    """Return name -> timed call of pytorch-fid, for the metrics that it has."""
    import numpy as np
    import torch
    import torchvision
    from pytorch_fid import fid_score, inception

    torch.set_num_threads(os.cpu_count())
    untrained = torchvision.models.inception_v3(
        num_classes=1008, aux_logits=False, weights=None, init_weights=False
    )
    inception.load_state_dict_from_url = lambda *_, **__: untrained.state_dict()
    net = inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[DIMENSIONS]]).eval()
    drawn, data, images = feature_sets(count)

    def features():
        with torch.inference_mode():
            net(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)

    def distance():
        stats = [(x.mean(0), np.cov(x, rowvar=False)) for x in (drawn, data)]
        fid_score.calculate_frechet_distance(*stats[0], *stats[1])

    return dict(zip(BOTH, (features, distance), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000, help="rows of features")
    parser.add_argument("--repeats", type=int, default=5, help="times each call is timed")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve == "ours":
        cli.set_up_jax()  # as `vdu` does; PyTorch runs with its own defaults
        return timing.serve(ours(given.images))
    if given.serve:
        return timing.serve(theirs(given.images))

    sides = {
        side: timing.Side(f"--serve={side}", f"--images={given.images}")
        for side in ("ours", "pytorch-fid")
    }
    found, lines = {}, []
    for what in BOTH + OURS_ALONE:
        timing.say(what)
        able = {label: side for label, side in sides.items() if label == "ours" or what in BOTH}
        calls = {label: partial(side.call, what) for label, side in able.items()}
        times = timing.in_turns(calls, given.repeats)
        median = timing.medians(times)
        found[what] = {"seconds": times, "median": median}
        other = median.get("pytorch-fid", "–")
        lines.append([what, median["ours"], other, other / median["ours"] if what in BOTH else "–"])
    for side in sides.values():
        side.close()
    table = timing.rows(["what", "ours, s", "pytorch-fid, s", "times its speed"], lines)
    timing.publish({"images": given.images, "measured": found}, table, given.json)


if __name__ == "__main__":
    main()
