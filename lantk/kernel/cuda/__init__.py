"""The exact kernel on NVIDIA GPUs."""
