"""Sample many images in batches, spread over all devices."""

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
    """Make a sampler of any number of images; it is compiled once.

    Image i of a seed comes from the key fold_in(key(seed), i): the same noise for every model,
    whatever the count. All batches have one size, so that nothing is compiled twice.

    Args:
      draw_images: `(params, keys (n,), *given (n, …)) -> images (n, H, W, C)` in [-1, 1]; an image
        must depend on its own key and its own rows of `given` alone.
      image_shape: (H, W, C).
      batch_size: images of a batch; rounded up to a multiple of the number of devices.
      fsdp: number of devices that share one copy of the parameters.

    Returns:
      `sampler(params, seed, count, label, *given) -> images`, (count, H, W, C) uint8 in [0, 255].
      `label` names the progress bar; `given` are arrays (count, …), such as conditions.

    Raises:
      UserError: if `fsdp` does not divide the number of devices.
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
    """Pad an array to `count` rows with copies of its last row."""
    return np.pad(rows, [(0, count - len(rows)), *[(0, 0)] * (rows.ndim - 1)], mode="edge")
