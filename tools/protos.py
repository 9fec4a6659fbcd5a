"""Lints the contract in protos/ and turns it into the committed Python stubs.

    python tools/protos.py generate    write sdk/python/cuelight/v1/*_pb2*
    python tools/protos.py check       fail when the committed stubs are not what the contract gives
    python tools/protos.py lint        buf's STANDARD and COMMENTS rules

The imported google/rpc protos come from the googleapis-common-protos package, so that nothing is fetched. Knows nothing
of what the messages mean.
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.rpc import status_pb2

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "sdk" / "python" / "cuelight" / "v1"
PATTERN = "*_pb2*.py*"
BUF_WORKSPACE = """\
version: v2
modules:
  - path: protos
    lint:
      use: [STANDARD, COMMENTS]
  - path: googleapis
    lint:
      use: [PACKAGE_DEFINED]
"""


def google_protos() -> Path:
    """The directory that holds google/rpc/*.proto."""
    return Path(status_pb2.__file__).parents[2]


def well_known_protos() -> Path:
    """The directory that holds google/protobuf/*.proto."""
    return Path(grpc_tools.__file__).parent / "_proto"


def generate(target: Path, protos: Path = PROTOS) -> None:
    """Writes the stubs and their types for every .proto under `protos` into `target`."""
    sources = sorted(str(path) for path in protos.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        includes = [f"--proto_path={path}" for path in (protos, google_protos(), well_known_protos())]
        outputs = [f"--{name}_out={scratch}" for name in ("python", "grpc_python")]
        outputs += [f"--{name}_out=quiet:{scratch}" for name in ("mypy", "mypy_grpc")]
        # The plugins are the ones beside this interpreter, whatever the caller's PATH is.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        command = [sys.executable, "-m", "grpc_tools.protoc", *includes, *outputs, *sources]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        for stub in target.glob(PATTERN):
            stub.unlink()
        for stub in Path(scratch).rglob(PATTERN):
            shutil.copyfile(stub, target / stub.name)


def stale_stubs(target: Path = STUBS, protos: Path = PROTOS) -> list[str]:
    """Names of the stubs in `target` that differ from what `protos` gives, lack, or have no source."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh, protos)
        names = {path.name for folder in (fresh, target) for path in folder.glob(PATTERN)}
        return sorted(set(names) - set(filecmp.cmpfiles(fresh, target, names, shallow=False)[0]))


def lint(protos: Path = PROTOS) -> subprocess.CompletedProcess[str]:
    """Runs buf over a workspace of our protos and those they import."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(scratch)
        (workspace / "buf.yaml").write_text(BUF_WORKSPACE)
        shutil.copytree(protos, workspace / "protos")
        (workspace / "googleapis" / "google" / "rpc").mkdir(parents=True)
        shutil.copy(google_protos() / "google" / "rpc" / "status.proto", workspace / "googleapis" / "google" / "rpc")
        buf = Path(sys.executable).parent / "buf"
        command = [str(buf if buf.exists() else "buf"), "lint", "protos"]
        return subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=120, check=False)


def main() -> int:
    """Does the one action asked for; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=("generate", "check", "lint"))
    action = parser.parse_args().action
    if action == "generate":
        generate(STUBS)
    elif action == "check":
        stale = stale_stubs()
        if stale:
            print("stubs differ from protos/ (run `make protos`):", *stale, sep="\n  ")
        return int(bool(stale))
    else:
        result = lint()
        print(result.stdout + result.stderr, end="")
        return result.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
