"""The same question to every scorer, and the measures of the answers."""
