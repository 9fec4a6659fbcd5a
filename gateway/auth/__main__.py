"""Makes an API key: `python -m gateway.auth TENANT [NAME] >> KEYS_FILE`.

The line for the file goes to standard output, the key itself to standard error: it is shown once and kept nowhere.
"""

from __future__ import annotations

import sys

from gateway.auth.keys import key_line, new_key

if not 2 <= len(sys.argv) <= 3:
    sys.exit("usage: python -m gateway.auth TENANT [NAME] >> KEYS_FILE")
key = new_key()
try:
    print(key_line(sys.argv[1], key, *sys.argv[2:]))
except ValueError as fault:
    sys.stderr.write(f"cuelight: {fault}\n")
    sys.exit(2)
sys.stderr.write(f"{key}\n")
