"""The program vitab, which prints a line about every epoch; with one worker, from inside the training."""

from ablations.cli import app
from ablations.commands import progress

if __name__ == "__main__":
    progress.EPOCH_LINE_EVERY = 0.0
    app()
