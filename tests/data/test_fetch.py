"""Downloads that resume, and are checked."""

from pathlib import Path

import pytest

from ablations.data.datasets.fetch import Remote, fetch
from ablations.errors import VitabError
from tests.support.served import Server, remote


def test_fetch_brings_a_file_once_and_reports(tmp_path: Path, server: Server) -> None:
    seen: list[tuple[str, int, int | None]] = []
    (path,) = fetch([remote(server)], tmp_path / "new", lambda *progress: seen.append(progress))
    assert path.read_bytes() == server.content
    assert seen[-1] == ("some.bin", 3_000_000, 3_000_000)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    fetch([remote(server)], tmp_path / "new")
    assert server.asked == [None]
    assert [p.name for p in path.parent.iterdir()] == ["some.bin"]


def test_fetch_resumes_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.break_after = 1_234_567
    with pytest.raises(VitabError, match=r"closed after 1,234,567 of 3,000,000 bytes; run the same command again"):
        fetch([remote(server)], tmp_path)
    assert not (tmp_path / "some.bin").exists()
    server.break_after = None
    (path,) = fetch([remote(server)], tmp_path)
    assert path.read_bytes() == server.content
    assert server.asked == [None, "bytes=1234567-"]


@pytest.mark.parametrize("have", [1000, 3_000_000, 3_000_001])
@pytest.mark.parametrize("ranges", [True, False])
def test_fetch_copes_with_any_part_and_any_server(tmp_path: Path, server: Server, have: int, ranges: bool) -> None:
    server.ranges = ranges
    (tmp_path / "some.bin.part").write_bytes((server.content + b"x")[:have])
    (path,) = fetch([remote(server)], tmp_path)
    assert path.read_bytes() == server.content


def test_fetch_refuses_a_wrong_checksum_and_starts_afresh(tmp_path: Path, server: Server) -> None:
    with pytest.raises(VitabError, match=r"does not match the published MD5 .* run the same command again"):
        fetch([remote(server, b"other")], tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "some.bin").write_bytes(b"old")
    assert fetch([remote(server)], tmp_path)[0].read_bytes() == server.content


def test_fetch_says_why_it_could_not(tmp_path: Path) -> None:
    with pytest.raises(VitabError, match=r"http://127\.0\.0\.1:9/x: .*refused.*or copy the file to"):
        fetch([Remote("http://127.0.0.1:9/x", "0" * 32)], tmp_path)


def test_a_cache_that_cannot_be_written_is_one_line_and_is_still_read(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VitabError, match=r"^cannot write .*/file/cache; set XDG_CACHE_HOME .* as --data-dir$"):
        fetch([remote(server)], tmp_path / "file" / "cache")
    assert server.asked == []
    (tmp_path / "read-only").mkdir()
    (tmp_path / "read-only" / "some.bin").write_bytes(server.content)
    (tmp_path / "read-only").chmod(0o555)
    assert fetch([remote(server)], tmp_path / "read-only") == [tmp_path / "read-only" / "some.bin"]
    assert server.asked == []
