"""What was answered and shown, on disk: the decision log, campaigns, the files that learning reads."""
