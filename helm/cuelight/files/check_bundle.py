"""Ends with an error unless the bundle in a directory is the one that was asked for: check_bundle.py DIRECTORY SHA256.

The digest is that of manifest.json, which holds those of all other files; the processes compare these themselves.
"""

import sys
from pathlib import Path

from services.bundle import load_manifest
from services.errors import BundleInvalid

directory, expected = sys.argv[1:]
try:
    manifest = load_manifest(Path(directory))
except BundleInvalid as fault:
    sys.exit(f"{directory} holds no bundle: {fault}")
if manifest.digest != expected:
    sys.exit(f"{directory} holds {manifest.name} {manifest.version} with digest {manifest.digest}, not {expected}")
sys.stdout.write(f"{directory} holds {manifest.name} {manifest.version}, digest {manifest.digest}\n")
