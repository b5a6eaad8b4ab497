"""Augmentation: images, sounds and texts changed at random while a model trains."""

from kacc.augmentation.directory import flow_from_directory

__all__ = ["flow_from_directory"]
