"""The files of the statistics: who writes which, and what survives."""

import os
from pathlib import Path

from structlog.testing import capture_logs

from federation.core.clock import ManualClock
from federation.observability.statistics.files import StatisticsSlot, folder_of, read_all
from federation.observability.statistics.history import Changes, History, Period
from federation.observability.statistics.recorder import StatisticsRecorder


class Process:
    """A process that counts calls."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = folder_of(data_dir)
        self.clock = ManualClock()
        self.calls = 0
        self.recorder = StatisticsRecorder(self.folder, self._changes, self.clock)

    def _changes(self) -> Changes:
        calls, self.calls = self.calls, 0
        return {"node/": {"calls": calls}, "instance/": {"hits": 0}}

    async def call(self, count: int) -> None:
        self.calls += count
        await self.recorder.record()

    def kill(self) -> None:
        """What a kill -9 leaves: no last record, and the kernel's lock gone."""
        slot = self.recorder._slot
        assert slot is not None
        slot.release()
        self.recorder._slot = None


def recorded(data_dir: Path) -> int:
    history, problems = read_all(folder_of(data_dir))
    assert problems == []
    return history.total(Period.HOUR, ManualClock().wall_s()).get("node/", {}).get("calls", 0)


async def test_what_happened_is_kept_over_restarts_and_kills(tmp_path: Path) -> None:
    first = Process(tmp_path)
    await first.call(3)
    first.kill()
    second = Process(tmp_path)
    await second.call(4)
    second.calls = 5
    await second.recorder.close()
    assert recorded(tmp_path) == 12
    assert [path.name for path in sorted(folder_of(tmp_path).iterdir())] == ["0.json", "0.lock"]


async def test_processes_at_the_same_time_have_files_of_their_own(tmp_path: Path) -> None:
    ours, theirs = Process(tmp_path), Process(tmp_path)
    for process in (ours, theirs, ours):
        await process.call(1)
    assert recorded(tmp_path) == 3
    assert len(list(folder_of(tmp_path).glob("*.json"))) == 2
    await ours.recorder.close()
    await theirs.recorder.close()


async def test_an_idle_process_writes_nothing(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for _ in range(3):
        await process.call(0)
    await process.recorder.close()
    assert not process.folder.exists()


async def test_a_damaged_file_is_told_and_counted_anew(tmp_path: Path) -> None:
    folder_of(tmp_path).mkdir()
    (folder_of(tmp_path) / "0.json").write_bytes(b"\xff{")
    _, problems = read_all(folder_of(tmp_path))
    assert len(problems) == 1
    process = Process(tmp_path)
    with capture_logs() as logs:
        await process.call(2)
    assert [each["event"] for each in logs] == ["statistics_damaged"]
    assert recorded(tmp_path) == 2
    await process.recorder.close()


async def test_a_disk_that_takes_nothing_is_told_once_and_loses_no_count(tmp_path: Path) -> None:
    folder_of(tmp_path).write_text("no folder")
    process = Process(tmp_path)
    with capture_logs() as logs:
        await process.call(1)
        await process.call(2)
    assert [each["event"] for each in logs] == ["statistics_not_written"]
    folder_of(tmp_path).unlink()
    await process.call(4)
    assert recorded(tmp_path) == 7
    await process.recorder.close()


async def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    process = Process(tmp_path)
    await process.call(1)
    process.kill()
    (process.folder / "0.tmp").write_text('{"version": 1, "hou')
    assert recorded(tmp_path) == 1
    slot = StatisticsSlot.take(process.folder)
    slot.write(History().to_text())
    slot.release()
    assert recorded(tmp_path) == 0


async def test_the_rate_is_that_of_the_last_minute(tmp_path: Path) -> None:
    process = Process(tmp_path)
    for calls in (1000, 30, 30, 30, 30):
        process.clock.advance(15)
        await process.call(calls)
    assert process.recorder.calls_per_s == 2.0
    await process.recorder.close()


async def test_the_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    process = Process(tmp_path)
    before = os.umask(0)
    try:
        await process.call(1)
    finally:
        os.umask(before)
    assert process.folder.stat().st_mode & 0o077 == 0
    await process.recorder.close()
