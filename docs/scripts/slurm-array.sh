#!/usr/bin/env bash
# A pair of networks per task of a Slurm array, each in a runs folder of its own: nothing is shared but bundles.
#
#   sbatch docs/scripts/slurm-array.sh             # from the clone, after `make install` and the images on a login node
#   python -m benchmark merge bundles/*/           # on the login node, whenever you like: it takes what is new
#
# A task whose deadline passes asks for its turn again and goes on from its checkpoints.
#SBATCH --job-name=distillation
#SBATCH --array=0-3
#SBATCH --time=01:00:00
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

PAIRS=(
    resnet32x4:resnet8x4
    resnet32x4:shufflenet_v1
    vgg13:mobilenet_v2
    resnet32x4:shufflenet_v2
)
task=${SLURM_ARRAY_TASK_ID:?start it with sbatch}
cd "${SLURM_SUBMIT_DIR:?start it with sbatch}"

# bundles/teachers.*, if there are any: trained once, so that no two tasks train the same teacher
export IN=bundles OUT=bundles/$task RUNS=runs-$task DATA=${BENCH_DATA:-data} DEADLINE=55m
code=0
docs/scripts/sitting.sh cifar100 --pairs "${PAIRS[$task]}" || code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
fi
exit "$code"
