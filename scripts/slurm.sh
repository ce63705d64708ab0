#!/usr/bin/env bash
# scripts/paper.sh or a command of mmor as a job of a cluster.
#   sbatch scripts/slurm.sh MMOR|4DOR|HybridOR [FOLDER]
# It asks for one 48 GB GPU, as in the paper; with --gres=gpu:4 on the command line of sbatch all four work at once, each
# with the published batch. Before you queue: PLAN=1 bash scripts/slurm.sh MMOR says on the spot what each step needs and
# what is missing (on a computer without a GPU, that too).
#   job=$(sbatch --parsable --array=1-8 scripts/slurm.sh scene-graph evaluate --model-path MODEL)
#   sbatch --dependency=afterany:$job scripts/slurm.sh scene-graph evaluate --model-path MODEL
# Eight jobs with a GPU each do a share of the command (--part I/8), then the same command without --array collects and
# scores what they did, and does what a job has not. docs/processes.md says which commands know --part.
# A job that runs out of time is queued again and goes on from its last checkpoint. Where a cluster allows less than the
# two days below: sbatch --time=1-00:00:00 scripts/slurm.sh ...
#SBATCH --job-name=mmor
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=12
#SBATCH --mem=96G
#SBATCH --time=2-00:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@300
#SBATCH --output=mmor-%j.log
#SBATCH --open-mode=append
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}"
export GPU_BUILD=1 # of the jobs; scripts/environment.sh
trap 'kill "$job"; scontrol requeue "$SLURM_JOB_ID"' USR1
run() {
    case ${1:-} in
    "" | MMOR | 4DOR | HybridOR) GPUS=${SLURM_GPUS_ON_NODE:-${GPUS:-1}} exec bash scripts/paper.sh "$@" ;;
    esac
    source scripts/environment.sh
    exec mmor "$@" ${SLURM_ARRAY_TASK_ID:+--part "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"}
}
run "$@" &
job=$!
wait "$job"
