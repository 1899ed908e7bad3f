"""Remake report/: a small made-up study as its report, without the figures. Look at the difference before you commit.

python -m tests.golden.make_report
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent


def small_study():
    """Three arms, two settings, four seeds, one run lost."""
    from tests.support import synthetic_results

    axes = {"position": ("none", "learned", "rope"), "patch": (2, 4)}
    lost = ("learned", 4, 3)
    return synthetic_results.make(
        axes, range(4), study="small", missing=lambda c: (c.position, c.patch, c.seed) == lost
    )


if __name__ == "__main__":
    from ablations.reporting.report import compose

    report = compose(small_study())
    folder = HERE / "report" / "small"
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_bytes(report.text.encode())
    for name, content in report.tables.items():
        (folder / "tables" / name).write_bytes(content.encode())
