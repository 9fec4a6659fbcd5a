"""The public service of offline renders."""
