"""Files for targets, and running and checking them."""
