"""Fuzzes one target under coverage: `python -m tests.fuzz.coverage TARGET BOUND [FOUND]`.

Begins with the saved corpus, keeps what reaches new code in FOUND/corpus, and writes an input that breaks the target
to FOUND; the exit status then is not 0. BOUND is an option of libFuzzer: -runs=INPUTS or -max_total_time=SECONDS.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

import atheris

COVERED = {
    "text": ("orchestrator_llm.model", "num2words", "anyascii"),
    "portrait": ("PIL", "dit_worker.engine.portrait", "gateway.sessions.validation"),
    "planned": ("orchestrator_llm.engine",),
    "message": ("gateway", "google.protobuf.json_format"),
}
"""Packages whose code is counted as reached, by target."""
ONE_INPUT_S = 20
MEMORY_MB = 4096


def main(name: str, bound: str, found: Path) -> None:
    """Fuzz until the bound is met or the target breaks; libFuzzer ends the process."""
    modules = importlib.import_module("tests.fuzz.targets")
    target = modules.TARGETS[name]
    kept, dictionary = found / "corpus", found / "words"
    kept.mkdir(parents=True, exist_ok=True)
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    arguments = [sys.argv[0], str(kept), str(modules.CORPUS / name), bound, "-seed=1"]
    arguments += [f"-max_len={target.most_bytes}", f"-timeout={ONE_INPUT_S}", f"-rss_limit_mb={MEMORY_MB}"]
    arguments += [f"-artifact_prefix={found}/", f"-dict={dictionary}", "-print_final_stats=1"]
    target.prepare()  # before time is counted

    def take(raw: bytes) -> None:
        try:
            target.take(raw)
        except BaseException:
            (found / f"crash-{sha256(raw).hexdigest()[:16]}").write_bytes(raw)  # libFuzzer itself may not get to it
            raise

    atheris.Setup(arguments, take)
    atheris.Fuzz()


def _escaped(word: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


if __name__ == "__main__":
    with atheris.instrument_imports(include=list(COVERED[sys.argv[1]])):
        importlib.import_module("tests.fuzz.targets")
    folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp(prefix="fuzz-"))
    main(sys.argv[1], sys.argv[2], folder)
