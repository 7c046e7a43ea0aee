"""Numerical operations: attention, rotary embedding, norms, and kernels for TPUs and CPUs."""
