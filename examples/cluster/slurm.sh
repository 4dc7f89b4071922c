#!/usr/bin/env bash
# One training over all GPUs of two machines: sbatch examples/cluster/slurm.sh data=online_retail data.raw=/data/retail
# Prepared rows, towers, runs and checkpoints lie in folders that every machine sees, below $RECSYS_SHARED.
#SBATCH --job-name=recsys
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
# 90 seconds before the end, and where the job is preempted: the step in hand ends, and a checkpoint is written.
#SBATCH --signal=TERM@90
set -euo pipefail

shared=${RECSYS_SHARED:?a folder that every machine sees}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A run that was stopped goes on in a job of its own: add --resume <its folder>, here on any number of machines.
exec srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
    -m -- recsys train trainer=gpu \
    runtime.runs="$shared/runs" runtime.encoded="$shared/encoded" runtime.towers="$shared/towers" "$@"
