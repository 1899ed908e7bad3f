"""Sentences of a report on one's own data."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from ablations.reporting.dataset_text import details
from ablations.reporting.threats import faults_of_data


def results_of(record: dict[str, Any], **fields: Any) -> Any:
    """Return what the sentences read of the results of one run."""
    return SimpleNamespace(
        runs=pd.DataFrame([{"key": "k", "data": "npz", **fields}]), environments={"k": {"dataset": record}}
    )


@pytest.mark.parametrize(
    ("fields", "sentences"),
    [
        ({"data": "npz"}, []),
        (
            {"data": "npz", "image_size": 16.0},
            ["Images were resized to 16 × 16 pixels in grey: the largest centred square was cut out"],
        ),
        (
            {"data": "folder"},
            [
                "Pictures were turned upright, the largest centred square was cut out, and resized to 16 × 16 pixels "
                "in grey"
            ],
        ),
    ],
)
def test_arrays_that_keep_their_pixels_are_not_said_to_be_resized(fields: dict[str, Any], sentences: list[str]) -> None:
    assert details(results_of({"resize": "crop", "image_size": 16, "channels": 1}, **fields)) == sentences


def test_faults_agree_with_their_number() -> None:
    record = {
        "skipped": {"unreadable": 1},
        "duplicates": {"training, test": 3, "training, test, same pixels": 1, "other label": 1},
    }
    assert faults_of_data(results_of(record)) == [
        (
            "Duplicates",
            "3 test images are possible duplicates of training images, 1 with the same pixels. 1 image is like an "
            "image of another class.",
        ),
        ("Unreadable pictures", "1 picture could not be read and was left out."),
    ]
