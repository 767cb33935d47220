"""Each answer on record: written, found again, computed again."""
