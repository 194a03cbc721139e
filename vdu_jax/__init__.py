"""vdu-jax: make a trained diffusion model forget.

The functional core (`diffusion`, `models`, `posterior`, `objectives`, `metrics`, `forget_detector`,
`training`) is pure functions of pytrees, free of files and devices. The shell (`data`, `interop`,
`runtime`, `config`, `tasks`, `stages`, `cli`) touches files and devices and calls the core.

    import vdu_jax as vdu

    predicts = vdu.epsilon(vdu.make_schedule())
    objective = vdu.objectives.vdu(score_fn, predicts, posterior, num_forget, gamma=0.1)

Names are imported on first use: `import vdu_jax` alone does not load JAX.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module that defines it; "" if the name is a module or package itself.
_PUBLIC = {
    "config": "",
    "data": "",
    "metrics": "",
    "objectives": "",
    "posterior": "",
    "training": "",
    # Noise schedule, parameterization, sampling.
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
    # Objectives and update steps.
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
