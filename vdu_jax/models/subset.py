"""A network's parameters in two parts: what may change, and what stays as it is."""

import re

from flax import traverse_util

from vdu_jax.types import Params

NAMED = {
    "all": r"",
    # Of the conditional U-Net: attention to the text, and everything but that. What is erased by
    # ESD-x and by ESD-u (Gandikota et al. 2023, arXiv 2303.07345, sec. 4.1).
    "cross_attention": r"/attn2/",
    "not_cross_attention": r"^(?!.*/attn2/)",
}
"""Name of a part -> regular expression on a parameter's path, e.g. "mid_block_…/attn2/to_q"."""


def split(params: Params, which: str) -> tuple[Params, Params]:
    """The parameters whose path has `which` in it, and all others; both nested dicts.

    Args:
      params: nested dicts of arrays. which: a name in `NAMED`, or a regular expression.

    Raises:
      ValueError: if it is no regular expression, or no parameter's path has it.
    """
    try:
        pattern = re.compile(NAMED.get(which, which))
    except re.error as error:
        raise ValueError(f"{which!r} is no regular expression: {error}") from None
    flat = traverse_util.flatten_dict(params, sep="/")
    chosen = {path for path in flat if pattern.search(path)}
    if not chosen:
        raise ValueError(f"no parameter's path has {which!r}")
    parts = (
        {path: leaf for path, leaf in flat.items() if (path in chosen) == wanted}
        for wanted in (True, False)
    )
    return tuple(traverse_util.unflatten_dict(part, sep="/") for part in parts)


def merge(part: Params, rest: Params) -> Params:
    """The inverse of `split`."""
    flat = traverse_util.flatten_dict(part) | traverse_util.flatten_dict(rest)
    return traverse_util.unflatten_dict(flat)
