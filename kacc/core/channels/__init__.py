"""Which channels of a model go together, and models with other numbers of them."""
