"""Estimators with scikit-learn's contract: fit, predict, cross-validate, save."""
