#!/usr/bin/env bash
# Short speech-only runs, each without one option beyond the paper's equations: 5,120 samples, one voice, one seed.
# Read the last val_ line of data/checkpoints/ablation-*/log.jsonl; docs/log.md keeps what was measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
common=(--samples 5120 --threads 1 --voices kal16:1)
$python -m training.train_audio --name ablation-none "${common[@]}"
for option in duration_bias context_in_condition text_kernel audio_motion; do
  $python -m training.train_audio --name "ablation-$option" --without "$option" "${common[@]}"
done
