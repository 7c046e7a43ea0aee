"""The process and its machine: signals, child processes, memory, JAX's platform."""
