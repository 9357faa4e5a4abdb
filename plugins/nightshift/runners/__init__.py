"""Where a job's container runs: as a process of this machine, or as a pod."""
