"""Runs in experiment trackers: TensorBoard, MLflow, Weights & Biases, Trackio. A tracker that fails costs no run."""
