"""The page's side of a stream that ends: its module, run by Node over sockets that a script plays."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WEB = HERE.parents[2] / "gateway" / "web"


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_page_follows_a_gateway_that_goes_away() -> None:
    """It attaches at once over a new socket with the token, sends again what was not taken, and tells nothing twice."""
    ended = subprocess.run(
        ["node", str(HERE / "connection.mjs"), str(WEB)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    attach = told["attach"]["stream"]["attach"]
    assert (told["closed"], attach["resumeToken"], told["attach"]["token"]) == (1000, "elsewhere", "token")
    assert told["again"] == {"stream": {"clientSeq": 1, "input": {"say": "hello"}}}
    assert told["heard"] == ["attached", "attached", "retired", "responseEnded", "progress", "reconnecting"]
    assert (told["sockets"], told["third"]) == (3, "elsewhere"), "a line that breaks is made again at once"
