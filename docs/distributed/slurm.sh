#!/bin/bash
#SBATCH --job-name=vitreous
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=01:15:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

# sbatch --export=ALL,DATA=/shared/pets,RUN=/shared/runs/pets slurm.sh
#
# DATA and RUN lie on a disk that all machines share. Two minutes before the time limit SLURM sends SIGTERM, and the
# run is saved. The same command, given again after a limit or by SLURM itself after a preemption, goes on with it.

set -euo pipefail
: "${DATA:?the pictures, on a disk that all machines share}"
: "${RUN:?the run folder, on a disk that all machines share}"

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node "${PROCESSES:-gpu}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$first:${PORT:-29500}" --rdzv-id "$SLURM_JOB_ID" \
    -m vitreous train "$DATA" --out "$RUN" --budget "${BUDGET:-1h}"
