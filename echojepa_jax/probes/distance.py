"""How far an example is from the training data, and whether that is further than usual.

An example's embedding is the mean of its tokens. The distance is Mahalanobis's (Lee et al. 2018),
with the covariance of probabilistic PCA (Tipping and Bishop 1999): the first principal components
of the training embeddings each have their own variance, and all other directions share one.
Channels are scaled by their spread first, so that no channel counts more because of its unit. Few
numbers suffice, and no patient's embedding is stored, as k nearest neighbours would need.

The distance is divided by a quantile of the distances of validation examples, which were not in the
fit. A value above 1 is flagged as far: one in twenty validation examples is.
"""

import dataclasses

import numpy as np

COMPONENTS = 32
USUAL = 0.95
FAR, NEAR = "far", "near"


@dataclasses.dataclass(frozen=True)
class Familiar:
    """What the training data look like to an encoder.

    mean, scale: of the channels of embeddings, float32 [D]. axes: principal components,
    float32 [k, D]. spread: standard deviation along each, then along any other direction,
    float32 [k + 1]. limit: distance of the validation quantile, float32 [1].
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    spread: np.ndarray
    limit: np.ndarray

    def distances(self, embeddings: np.ndarray) -> np.ndarray:
        """Distance over limit, float64 [n], of embeddings [n, D]; above 1 is far."""
        return _mahalanobis(self, embeddings) / float(self.limit[0])


def flag(distance: float) -> str:
    """FAR or NEAR; "" if the distance is not known (NaN)."""
    if np.isnan(distance):
        return ""
    return FAR if distance > 1 else NEAR


def fit(train: np.ndarray, val: np.ndarray) -> Familiar | None:
    """Learns from embeddings of training, [n, D], and sets the limit by validation, [m, D].

    Returns:
      None if training has fewer than 3 embeddings or they are all equal, or validation has none.
    """
    from sklearn.decomposition import PCA  # slow to import, and predictions do not need it

    train, val = train.astype(np.float64), val.astype(np.float64)
    if len(train) < 3 or not len(val):
        return None
    mean, scale = train.mean(axis=0), train.std(axis=0)
    # A channel that does not vary in training has the typical spread of the others.
    varies = scale > 1e-6 * np.abs(mean)
    if not varies.any():
        return None
    scale = np.where(varies, scale, np.median(scale[varies]))
    count = max(1, min(COMPONENTS, (len(train) - 1) // 2, train.shape[1] - 1))
    solver = "covariance_eigh" if len(train) > train.shape[1] else "full"  # the faster one
    pca = PCA(count, svd_solver=solver).fit((train - mean) / scale)
    variance = np.append(pca.explained_variance_, pca.noise_variance_)
    spread = np.sqrt(np.maximum(variance, 1e-6 * variance.max()))
    found = Familiar(
        mean.astype(np.float32),
        scale.astype(np.float32),
        pca.components_.astype(np.float32),
        spread.astype(np.float32),
        np.ones(1, np.float32),
    )
    limit = np.quantile(_mahalanobis(found, val), USUAL)
    return dataclasses.replace(found, limit=np.array([max(limit, 1e-6)], np.float32))


def _mahalanobis(to: Familiar, embeddings: np.ndarray) -> np.ndarray:
    """Distance from the training mean, float64 [n]."""
    away = (embeddings.astype(np.float64) - to.mean) / to.scale
    along = away @ to.axes.T.astype(np.float64)
    rest = np.maximum(np.sum(away**2, axis=1) - np.sum(along**2, axis=1), 0)
    spread = to.spread.astype(np.float64)
    return np.sqrt(np.sum((along / spread[:-1]) ** 2, axis=1) + rest / spread[-1] ** 2)
