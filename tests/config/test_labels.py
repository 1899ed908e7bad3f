import numpy as np
import pytest

from ablations.config import level_text


@pytest.mark.parametrize(
    ("level", "text"),
    [
        ("rope", "rope"),
        (4, "4"),
        (4.0, "4"),
        (2e-3, "0.002"),
        (1e-5, "1e-05"),
        (1e30, "1e+30"),
        (None, "all"),
        (np.nan, "all"),
        (["cat", "dog"], "cat+dog"),
    ],
)
def test_a_level_as_text(level, text):
    assert level_text(level) == text
