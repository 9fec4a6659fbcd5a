#!/usr/bin/env bash
# Makes bundles/pocket from nothing: about three hours on two CPU cores. Each stage resumes where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
$python -m training.make_corpus --voices kal16:20,slt:14
$python -m training.fit_codec
$python -m training.train_vae --minutes 25 --samples 100000
$python -m training.make_front_end --samples 500000
$python -m training.train_audio --samples 150000
$python -m training.make_video --passages 32
$python -m training.train_joint --samples 60000
$python -m training.package_bundle --run joint
