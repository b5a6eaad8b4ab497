"""Making the training step faster without changing what it computes."""

from kacc.acceleration.model import Fusion, accelerate, fuse_batch_normalization

__all__ = ["Fusion", "accelerate", "fuse_batch_normalization"]
