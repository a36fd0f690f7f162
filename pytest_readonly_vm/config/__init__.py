"""Settings: what a user may say, and what each value means."""
