"""The scratch folder of a run in S3."""

from pathlib import Path
from threading import Event, Thread

import pytest

from mars_dist.storage import Folder, LocalFolder
from mars_dist.training.mirror import Mirror


def test_what_two_threads_send_at_once_is_sent_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The end of a training, while its last checkpoint is still on its way."""
    sent, begun, go_on = list[str](), Event(), Event()
    send = LocalFolder.send

    def send_slowly(folder: LocalFolder, path: Path) -> None:
        sent.append(path.name)
        begun.set()
        assert go_on.wait(20)
        send(folder, path)

    monkeypatch.setattr(LocalFolder, "send", send_slowly)
    mirror = Mirror(Folder.open(tmp_path / "home"), set(), tmp_path / "scratch")
    (mirror.folder / "metrics.jsonl").write_text("1")
    one, other = (Thread(target=mirror.send) for _ in range(2))
    one.start()
    assert begun.wait(20)
    other.start()
    other.join(0.2)
    go_on.set()
    one.join()
    other.join()
    assert sent == ["metrics.jsonl"] and (tmp_path / "home" / "metrics.jsonl").read_text() == "1"
