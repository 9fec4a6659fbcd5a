"""Ends with an error unless the bundle in a directory is the one that was asked for: check_bundle.py DIRECTORY SHA256.

The digest is that of manifest.json, which holds those of all other files; the processes compare these themselves.
Nothing of theirs is imported: this stands before every start.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

directory, expected = sys.argv[1:]
try:
    raw = Path(directory, "manifest.json").read_bytes()
except OSError as fault:
    sys.exit(f"{directory} holds no bundle: {fault.strerror}")
found = sha256(raw).hexdigest()
try:
    manifest = json.loads(raw)
    name = f"{manifest['name']} {manifest['version']}"
except (ValueError, TypeError, KeyError):
    name = "something"
if found != expected:
    sys.exit(f"{directory} holds {name} with digest {found}, not {expected}")
sys.stdout.write(f"{directory} holds {name}, digest {found}\n")
