"""Linear algebra with Gram matrices: paths of solves, products, GPUs."""
