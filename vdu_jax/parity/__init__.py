"""Every component against the same one in PyTorch: golden numbers, and the command `vdu check`.

`components` says what is compared and how closely; `tests/parity/reference.py` holds the PyTorch
side under the same names. Both take what goes in from `inputs`.
"""
