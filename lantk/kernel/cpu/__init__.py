"""The exact kernel on CPUs: compiled loops, and the threads that call them."""
