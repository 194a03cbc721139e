"""vdu-jax: make a trained diffusion model forget.

The functional core lives in the rooms `diffusion`, `models`, `posterior`, `objectives`, `metrics`
and `detector`: pure functions of pytrees, free of files and devices. The shell (`data`, `runtime`,
`stages`, `cli`) feeds them. Import the room you need; this module itself imports nothing.
"""

__version__ = "0.1.0"
