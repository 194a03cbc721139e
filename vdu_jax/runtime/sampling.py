"""Draw many images within a memory bound, spread over all devices."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from vdu_jax.data import to_uint8
from vdu_jax.runtime import parallel, progress
from vdu_jax.types import Params


def make_sampler(
    draw_images: Callable[..., jax.Array],
    image_shape: tuple[int, int, int],
    *,
    batch_size: int = 250,
    fsdp: int = 1,
) -> Callable[..., np.ndarray]:
    """`sampler(params, seed, count, label, *given) -> uint8 (count, H, W, C)`, compiled once.

    Image i of a seed comes from the key fold_in(key(seed), i): the same noise for every model,
    whatever the count. Batches are of one size, so that nothing is compiled twice.

    Args:
      draw_images: `(params, keys, *given) -> images` in [-1, 1], one for each key and of that key,
        and its rows of what is given, alone. The sampler's `given` are arrays (count, …).
      fsdp: devices that share one copy of the parameters.
    """
    mesh = parallel.make_mesh(fsdp)
    batch_size = -(-batch_size // mesh.size) * mesh.size

    @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
    def draw(params: Params, seed: jax.Array, first: jax.Array, *given: jax.Array) -> jax.Array:
        indices = first + jax.numpy.arange(batch_size)
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(indices)
        split = parallel.batch_sharding(mesh)
        keys, given = jax.lax.with_sharding_constraint((keys, given), split)
        return draw_images(params, keys, *given)

    def sampler(
        params: Params, seed: int, count: int, label: str, *given: np.ndarray
    ) -> np.ndarray:
        params = parallel.place(params, mesh)
        images = np.empty((count, *image_shape), np.uint8)
        with progress.bar(count, label, unit="image") as bar:
            for first in range(0, count, batch_size):
                part = images[first : first + batch_size]
                rows = [_padded(array[first : first + batch_size], batch_size) for array in given]
                drawn = jax.device_get(draw(params, seed, first, *rows))
                part[:] = to_uint8(drawn)[: len(part)]
                bar.update(len(part))
        return images

    return sampler


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    """`count` rows: those given, and the last one again."""
    return np.pad(rows, [(0, count - len(rows)), *[(0, 0)] * (rows.ndim - 1)], mode="edge")
