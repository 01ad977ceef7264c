"""The finite network of an architecture: layers, training, tangent kernels."""
