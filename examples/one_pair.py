"""One pair of classes with the library alone: images, kernel, label term, accuracy.

    python examples/one_pair.py

tells handwritten 3s from 8s (scikit-learn's digits, nothing is downloaded), with the convolutional
neural tangent kernel (CNTK) and with LANTK-KR-V1 added to it. Seconds on two cores. So few images
favour the kernel: the label weight that is best inside train may be 0, which wins ties.
"""

import numpy as np
from scipy.linalg import solve
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold, train_test_split

import lantk
from lantk.label_terms import image_vectors

LAYERS = [{"conv": {"size": 3}}, "relu", {"conv": {"size": 3}}, "relu", "flatten", "dense"]
TERM = "lantk-kr-v1"
WEIGHTS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)  # 0 is the plain CNTK
N_TRAIN = 40


def load_pair(first, second):
    """Return images (n, 1, 8, 8) in [-1, 1] of two digits, and labels: the second one is +1."""
    digits = load_digits()
    chosen = np.isin(digits.target, (first, second))
    images = digits.images[chosen, None] / 8 - 1
    return images, np.where(digits.target[chosen] == second, 1.0, -1.0)


def predict(k, x, y, train, test, weight):
    """Return scores of test rows: regression with K + lambda Z, Z fitted to train rows alone."""
    k_train, k_test = k[np.ix_(train, train)], k[np.ix_(test, train)]
    if weight:
        term = lantk.label_term(TERM)
        z_train = term.fit_transform(k_train, y[train], x[train])
        z_test = term.transform(k_test, x[test])
        scale = weight * np.abs(k_train).mean() / np.abs(z_train).mean()
        k_train, k_test = k_train + scale * z_train, k_test + scale * z_test
    return k_test @ solve(k_train, y[train], assume_a="sym")


def accuracy(scores, y):
    """Return how many labels have the sign of their score."""
    return np.mean((scores >= 0) == (y > 0))


def choose_weight(k, x, y, train):
    """Return the label weight that is best in 5 folds inside the train rows."""
    folds = list(StratifiedKFold(5, shuffle=True, random_state=0).split(train, y[train]))

    def validated(weight):
        pairs = [(train[fitted], train[held_out]) for fitted, held_out in folds]
        return np.mean([accuracy(predict(k, x, y, *pair, weight), y[pair[1]]) for pair in pairs])

    return max(WEIGHTS, key=validated)


def main():
    """Print the accuracy of both variants on images that no choice has seen."""
    images, y = load_pair(3, 8)
    rows = np.arange(len(y))
    train, test = train_test_split(rows, train_size=N_TRAIN, stratify=y, random_state=0)
    k, x = lantk.gram(LAYERS, images), image_vectors(images)
    weight = choose_weight(k, x, y, train)
    print(f"digits, 3 against 8: n = {len(train)} train + {len(test)} test images")
    for name, r in (("CNTK", 0.0), ("LANTK-KR-V1", weight)):
        found = accuracy(predict(k, x, y, train, test, r), y[test])
        print(f"{name:<12} {found:.1%} at label weight {r}")


if __name__ == "__main__":
    main()
