"""What every technique stands on: graph, registry, attach, recipe, errors."""
