"""Weight clustering: the weights of a layer share a few values."""

from kacc import support as _support  # noqa: F401  (fills the layer registry)
from kacc.clustering.callback import WeightClustering
from kacc.clustering.model import cluster, clustered_layers, clusters, update_clusters

__all__ = [
    "WeightClustering",
    "cluster",
    "clustered_layers",
    "clusters",
    "update_clusters",
]
