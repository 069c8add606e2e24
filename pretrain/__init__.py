"""Self-supervised pretraining of a backbone on clips."""
