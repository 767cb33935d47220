"""SelectUsers: whom to contact at all, under a budget."""
