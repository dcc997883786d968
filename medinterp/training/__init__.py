"""Training the priors; nothing else imports it."""
