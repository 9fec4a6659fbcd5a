#!/usr/bin/env bash
# Makes bundles/pocket from nothing: an estimated ten hours on two CPU cores (AMD EPYC), one thread for each training that has a
# core to itself. Not run whole: docs/training.md tells what made the shipped weights, detours included. Each stage resumes
# where it stopped. Lines that end with & do not need one another.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
$python -m training.make_corpus
$python -m training.fit_codec
$python -m training.listener
# First how speech sounds, then above all that its phones are heard.
{ $python -m training.train_audio_decoder --minutes 90 \
  && $python -m training.train_audio_decoder --start data/checkpoints/audio_decoder --out data/checkpoints/audio_decoder_heard \
    --hearing 25 --rate 1e-3 --minutes 40; } &
decoder=$!
$python -m training.train_vae --minutes 50 --threads 1
$python -m training.make_front_end --samples 500000
wait $decoder
$python -m training.train_audio --threads 1 --samples 230000 &
speech=$!
$python -m training.make_video --passages 50 --processes 1
wait $speech
$python -m training.train_joint --threads 1 --samples 150000 --hold 0.5
training/recipes/distill.sh
$python -m training.package_bundle --run blend --decoder audio_decoder_heard --version 0.7.0 \
  --training "$(cat training/recipes/pocket.json)"
