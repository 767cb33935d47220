"""The right to be forgotten, and how long anything is kept."""
