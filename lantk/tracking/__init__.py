"""MLflow: what a run holds, and a store that agrees with the results on disk."""
