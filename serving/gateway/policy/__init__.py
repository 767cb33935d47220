"""What the policy says, and the order that follows from it: pure."""
