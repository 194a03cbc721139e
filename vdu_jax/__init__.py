"""vdu-jax: make a trained diffusion model forget.

The functional core lives in the packages `diffusion`, `models`, `posterior`, `objectives`,
`metrics`, and the modules `forget_detector` and `training`: pure functions of pytrees, free of
files and devices. The shell (`data`, `interop`, `runtime`, `config`, `tasks`, `stages`, `cli`)
feeds them.

    import vdu_jax as vdu

    predicts = vdu.epsilon(vdu.make_schedule())
    objective = vdu.objectives.vdu(score_fn, predicts, posterior, num_forget, gamma=0.1)

Names are imported when they are first asked for: `import vdu_jax` alone does not even load JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module that has it, or "" for a module or package of its own.
_PUBLIC = {
    "config": "",
    "data": "",
    "metrics": "",
    "objectives": "",
    "posterior": "",
    "training": "",
    # The noise schedule, what a network predicts, and drawing.
    "make_schedule": "diffusion.schedule",
    "Parameterization": "diffusion.parameterization",
    "epsilon": "diffusion.parameterization",
    "v_prediction": "diffusion.parameterization",
    "guided": "diffusion.guidance",
    "without_forget": "diffusion.guidance",
    "make_plan": "diffusion.samplers",
    "sample": "diffusion.samplers",
    # Networks.
    "UNet": "models.unet",
    "DiT": "models.dit",
    "init_params": "models.network",
    "make_feature_fn": "models.network",
    "make_score_fn": "models.network",
    # A step.
    "Objective": "types",
    "FitState": "training",
    "init_state": "training",
    "make_step": "training",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if not _PUBLIC[name]:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
