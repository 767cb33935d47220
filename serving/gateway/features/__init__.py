"""What is known of the user and the items: rows of the feature store, statistics of items in memory."""
