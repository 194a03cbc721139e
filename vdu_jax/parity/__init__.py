"""Comparison of every component with PyTorch: golden numbers, and the command `vdu check`.

`components` has our side of each comparison and its tolerance. `tests/parity/reference.py` has
PyTorch's side, under the same names. Both take their inputs from `inputs`.
"""
