"""What a new version must pass, and how it gets into service."""
