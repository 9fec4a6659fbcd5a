#!/usr/bin/env bash
# Short runs, each without one option beyond the paper's equations, from one seed: 5,120 chunks of speech of one voice,
# then 8,192 chunks with pictures after the speech stage.
# Read the last val_ line of data/checkpoints/ablation-*/log.jsonl; docs/log.md keeps what was measured.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
common=(--samples 5120 --threads 1 --voices kal16:1)
$python -m training.train_audio --name ablation-none "${common[@]}"
for option in duration_bias context_in_condition text_kernel audio_motion; do
  $python -m training.train_audio --name "ablation-$option" --without "$option" "${common[@]}"
done
pictures=(--samples 8192 --threads 1 --start audio)
$python -m training.train_joint --name ablation-pictures-none "${pictures[@]}"
for option in condition_to_video learned_positions; do
  $python -m training.train_joint --name "ablation-pictures-$option" --without "$option" "${pictures[@]}"
done
