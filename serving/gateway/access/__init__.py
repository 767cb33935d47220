"""Who may call, over which line, how often; and who did what with power. Nothing here knows what a ranking is."""
