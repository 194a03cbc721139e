"""Split a network's parameters into a part that is trained and the frozen rest."""

import re

from flax import traverse_util

from vdu_jax.types import Params

NAMED = {
    "all": r"",
    # The parts of the conditional U-Net that ESD-x and ESD-u train: attention to the text, and all
    # other parameters (Gandikota et al. 2023, arXiv 2303.07345, sec. 4.1).
    "cross_attention": r"/attn2/",
    "not_cross_attention": r"^(?!.*/attn2/)",
}
"""Regular expression on a parameter's path, e.g. "mid_block_…/attn2/to_q", by name of the part."""


def split(params: Params, which: str) -> tuple[Params, Params]:
    """Split parameters by their paths.

    Args:
      params: nested dicts of arrays.
      which: a name in `NAMED`, or a regular expression that is searched in the paths, whose keys
        are joined by "/".

    Returns:
      The parameters whose path matches, and all others; both nested dicts.

    Raises:
      ValueError: if `which` is no regular expression, or matches no path.
    """
    try:
        pattern = re.compile(NAMED.get(which, which))
    except re.error as error:
        raise ValueError(f"{which!r} is not a regular expression: {error}") from None
    flat = traverse_util.flatten_dict(params, sep="/")
    chosen = {path for path in flat if pattern.search(path)}
    if not chosen:
        raise ValueError(f"no parameter's path matches {which!r}")
    parts = (
        {path: leaf for path, leaf in flat.items() if (path in chosen) == wanted}
        for wanted in (True, False)
    )
    return tuple(traverse_util.unflatten_dict(part, sep="/") for part in parts)


def merge(part: Params, rest: Params) -> Params:
    """Merge two parts of the parameters: the inverse of `split`.

    Args:
      part: nested dicts of arrays.
      rest: nested dicts of arrays, without a path of `part`.
    """
    flat = traverse_util.flatten_dict(part) | traverse_util.flatten_dict(rest)
    return traverse_util.unflatten_dict(flat)
