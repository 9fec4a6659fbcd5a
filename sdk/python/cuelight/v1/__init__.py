"""Stubs generated from protos/cuelight/v1 by tools/protos.py; committed, never edited."""
