"""Who calls, and whether they may: API keys, JWTs, attach tokens, and the one place where calls are let in."""
