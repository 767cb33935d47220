"""What parts of a request cost by themselves."""
