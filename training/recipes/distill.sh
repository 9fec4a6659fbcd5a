#!/usr/bin/env bash
# Distils the guidance of the pocket's teacher (data/checkpoints/joint) into one pass, the teacher into four steps, then on
# rollouts of its own; compares them.
# With ABLATIONS=1 it also runs the paper's ablations of stage II. Each stage resumes where it stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
teacher=${TEACHER:-joint}
guidance=${GUIDANCE:-2.5} # of the sound; the picture is not guided away from no c_a, which opens mouths too wide
guides=(--teacher "$teacher" --guidance "$guidance")
$python -m training.distill_guidance "${guides[@]}" --name distill-guidance --samples 1600
$python -m training.distill_steps "${guides[@]}" --start distill-guidance --name distill-steps --samples 1080
$python -m training.distill_rollout "${guides[@]}" --start distill-steps --name distill-rollout \
  --samples 1140 --fake-rate 1e-4
# What prompts ask, each thing by as strong a guide as it needs; what hears and speaks stays as it was.
$python -m training.distill_guidance "${guides[@]}" --start distill-rollout --name distill-prompts \
  --guidance-slots expression=4.5,gaze=3.5,light=1.4,head=1.5,wall=1.3 --samples 3800 --batch 8 --speech 4
$python -m training.blend --first distill-rollout --second distill-prompts --share 1 --keep-sound --name blend
rows=("$teacher:50:euler:2:1:$guidance/1" "$teacher:4:renoise" distill-guidance distill-steps distill-rollout blend)
if [ -n "${ABLATIONS:-}" ]; then
  ablate() {
    name=distill-rollout-$1
    shift
    $python -m training.distill_rollout "${guides[@]}" --name "$name" "$@"
    rows+=("$name")
  }
  ablate one-chunk --start distill-steps --one-chunk
  ablate stage-2-only --start "$teacher"
  ablate without-sink --start distill-steps --without-sink
  ablate without-pointer --start distill-steps --tokens-per-chunk 16
  ablate without-cut --start distill-steps --without-cut
fi
$python -m evaluation.few_steps "${rows[@]}"
