"""Will a user come back? Probabilities with and without a contact, learnt from the log's own history and trials."""
