"""The benchmark of reports runs: its made-up runs make a report that follows from them."""

import json

import pytest

from benchmarks import report


@pytest.mark.slow
def test_a_small_study_is_read_written_and_checked(tmp_path):
    path = tmp_path / "report.json"
    report.main(["--runs", "160", "--json", str(path)])
    records = {record["what"]: record for record in json.loads(path.read_text())}
    assert list(records) == ["read", "write", "both", "check"]
    assert records["both"]["seconds"] >= records["write"]["seconds"] > 0
    assert {record["runs"] for record in records.values()} == {160}
    assert (tmp_path / "report.machine.json").is_file()
