"""Channels really removed: dependency graph, importance, pruner."""
