"""What tables say, where it takes arithmetic."""

import pytest

from ablations.commands.display import machine_hours
from ablations.execution.resources import ResourcePlan


@pytest.mark.parametrize(
    ("seconds", "crew", "said"),
    [
        (3600.0, ResourcePlan([], workers=2, threads=1, devices=(), lines=[]), "1.00 core-hours"),
        (3600.0, ResourcePlan([], workers=2, threads=4, devices=(), lines=[]), "4.00 core-hours"),
        (7_200_000.0, ResourcePlan([], workers=8, threads=2, devices=(), lines=[]), "4,000 core-hours"),
        (30.0, ResourcePlan([], workers=1, threads=1, devices=(), lines=[]), "under 0.01 core-hours"),
        (7200.0, ResourcePlan([], workers=2, threads=1, devices=("0", "1"), lines=[]), "2.00 GPU-hours"),
        (7200.0, ResourcePlan([], workers=4, threads=1, devices=("0", "1"), lines=[]), "1.00 GPU-hours"),
        (7200.0, ResourcePlan([], workers=1, threads=8, devices=("0", "1"), lines=[]), "2.00 GPU-hours"),
    ],
)
def test_what_runs_cost_of_a_machine(seconds, crew, said):
    """Cores count by the threads of a worker; workers that share a GPU do not take it twice."""
    assert machine_hours(seconds, crew) == said
