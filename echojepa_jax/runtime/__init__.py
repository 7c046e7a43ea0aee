"""The process and its machine: signals, child processes, memory, the platform of JAX."""
