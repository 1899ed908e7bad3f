"""Remake report/: small made-up studies as their reports, without figures. Look at the difference before you commit.

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


def diverging_study():
    """Three arms, six seeds; one arm diverges in two of them."""
    from tests.support import synthetic_results

    return synthetic_results.make(
        {"position": ("none", "learned", "rope")},
        range(6),
        study="diverging",
        survives=lambda c: c.position != "learned" or c.seed not in (1, 4),
        images=250,
    )


STUDIES = {"small": small_study, "diverging": diverging_study}

if __name__ == "__main__":
    from ablations.reporting.report import compose

    for name, study in STUDIES.items():
        report = compose(study())
        folder = HERE / "report" / name
        (folder / "tables").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_bytes(report.text.encode())
        for file, content in report.tables.items():
            (folder / "tables" / file).write_bytes(content.encode())
