"""Small trials that share one aio cluster."""
