"""What a process loads when it starts: a gateway image has no torch, and the SDK needs little."""

import json
import subprocess
import sys

import pytest

WALK = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
PRINT = """
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(script: str, *arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `script`."""
    command = [sys.executable, "-c", script + PRINT, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize("package", ["services", "gateway", "cuelight"])
def test_no_torch_is_loaded(package: str) -> None:
    """All modules of the package together load no torch, not even through somebody else's import."""
    assert not loaded_by(WALK, package) & {"torch", "safetensors", "orchestrator_llm", "dit_worker", "training"}


def test_the_sdk_loads_nothing_of_the_server() -> None:
    """An app that installs the SDK alone can import all of it."""
    assert not loaded_by(WALK, "cuelight") & {"services", "gateway", "redis", "pydantic"}


def test_the_client_needs_no_extra() -> None:
    """`import cuelight` works with grpcio and protobuf alone."""
    assert not loaded_by("import json, sys, cuelight") & {"typer", "rich", "av", "numpy"}
