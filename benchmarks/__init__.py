"""Speed against peers, side by side in one run. PyTorch is needed here and nowhere else."""
