"""The test question, asked, and what is written of the answers."""
