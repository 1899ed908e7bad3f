"""The program vitab, printing a line for every epoch; with one worker, from within the training."""

from ablations.cli import app
from ablations.commands import progress

if __name__ == "__main__":
    progress.EPOCH_LINE_EVERY = 0.0
    app()
