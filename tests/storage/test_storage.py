"""Folders on a disk and in a real S3 server on loopback, which fails in every way that a network knows."""

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

import boto3
import numpy as np
import pytest

from mars_dist import s3
from mars_dist.rows import Rows
from mars_dist.storage import CHUNK, Folder
from mars_dist.whole import HALF_WRITTEN, whole

from .faulty import Fault, FaultyProxy

CONTENT = os.urandom(100_000)


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder.open(tmp_path / "folder" if request.param == "local" else request.getfixturevalue("bucket"))


@pytest.fixture
def faulty(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultyProxy, Folder]]:
    """A proxy, and the folder behind it."""
    proxy = FaultyProxy(s3_server)
    monkeypatch.setattr(s3, "ANSWER_SECONDS", 1)
    yield proxy, Folder.open(bucket.replace(s3_server, proxy.address))
    proxy.close()


# ---- what both do alike


def test_what_is_written_is_read(folder: Folder) -> None:
    assert folder.list() == set()
    folder.write("a", CONTENT)
    folder.write("b", b"")
    assert folder.list() == {"a", "b"} and folder.read("a") == CONTENT and folder.read("b") == b""
    folder.write("a", b"other")
    assert folder.read("a") == b"other"
    folder.delete("b")
    assert folder.list() == {"a"}


def test_a_file_is_swapped_only_for_the_one_that_was_meant(folder: Folder) -> None:
    assert not folder.swap("a", b"x", b"y") and folder.list() == set()
    assert folder.swap("a", None, b"1") and not folder.swap("a", None, b"2")
    assert not folder.swap("a", b"2", b"3") and folder.read("a") == b"1"
    assert folder.swap("a", b"1", b"2") and folder.read("a") == b"2"


@pytest.mark.parametrize("old", [None, b"old"], ids=["new", "present"])
def test_of_many_who_swap_at_once_one_succeeds(folder: Folder, old: bytes | None) -> None:
    for i in range(5):
        file = f"file {i}"
        if old is not None:
            folder.write(file, old)
        values = [b"%d" % n for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda value, file=file: folder.swap(file, old, value), values))
        assert sum(done) == 1 and folder.read(file) == values[done.index(True)]


def test_it_pickles(folder: Folder) -> None:
    folder.write("a", CONTENT)
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert pickle.loads(pickle.dumps(folder)).read("a") == CONTENT


def test_what_is_not_there_is_an_os_error(folder: Folder) -> None:
    with pytest.raises(OSError):
        folder.read("a")


# ---- addresses


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere://x", "no folder's address: write a path or s3://bucket/path"),
        ("s3://", "no folder's address"),
        ("s3://bucket/path?endpoint=x", "unknown setting endpoint: there are endpoint_override, scheme, region"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Folder.open(address)


def test_an_address_may_be_joined_as_paths_are(bucket: str) -> None:
    """pyarrow reads no key with an empty part, and takes `.` for a part's name."""
    folder = Folder.open(bucket.replace("/folder", "//folder/./within/other/..//"))
    folder.write("a", b"1")
    assert folder.read("a") == b"1" and folder.path == Folder.open(bucket).sub("within").path


def test_the_endpoint_may_be_in_the_environment(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    folder = Folder.open(bucket.partition("?")[0])
    folder.write("a", b"1")
    assert folder.read("a") == b"1" and folder.swap("a", b"1", b"2") and folder.free_bytes() is None


# ---- a disk


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder.open(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        folder.write("taken", b"bytes")
    assert folder.list() == {"taken"}


def test_free_space_is_that_of_the_disk_that_it_will_lie_on(tmp_path: Path) -> None:
    free = Folder.open(tmp_path / "not" / "there" / "yet").free_bytes()
    assert free is not None and free > 2**20


# ---- a network


@pytest.mark.parametrize("fault", ["500", "503", "silence", "cut upload", "lost answer"])
def test_writing_goes_on_after_faults(faulty: tuple[FaultyProxy, Folder], fault: Fault) -> None:
    proxy, folder = faulty
    proxy.faults = [fault] * 2
    folder.write("a", CONTENT)
    assert proxy.made == [fault] * 2 and folder.read("a") == CONTENT
    assert not [name for name in folder.list() if name.endswith(HALF_WRITTEN)]


@pytest.mark.parametrize("fault", ["500", "503", "silence", "cut download"])
def test_reading_goes_on_after_faults(faulty: tuple[FaultyProxy, Folder], fault: Fault) -> None:
    proxy, folder = faulty
    folder.write("a", CONTENT)
    proxy.meant = lambda method, path: method == "GET"
    proxy.faults = [fault] * 2
    assert folder.read("a") == CONTENT and proxy.made == [fault] * 2


def test_a_file_is_read_in_one_request_and_copied_in_few(faulty: tuple[FaultyProxy, Folder], tmp_path: Path) -> None:
    proxy, folder = faulty
    folder.write("a", bytes(2 * CHUNK + 1))
    proxy.asked.clear()
    assert len(folder.read("a")) == 2 * CHUNK + 1
    assert proxy.asked["GET /bucket/folder/a"] == 1
    folder.fetch("a", tmp_path / "a")
    assert proxy.asked["GET /bucket/folder/a"] == 1 + 3


def test_a_shards_length_and_table_of_contents_are_asked_for_once(
    faulty: tuple[FaultyProxy, Folder], short_pictures: str
) -> None:
    """From then on a row group is one request."""
    proxy, folder = faulty
    for path in Path(short_pictures).iterdir():
        folder.send(path)
    rows, columns = Rows(folder.name, "valid"), ["picture", "pitch"]
    asked = []
    for _ in range(3):
        proxy.asked.clear()
        found = rows.read_group(rows.groups[0], columns)
        asked.append([proxy.asked[f"{method} /bucket/folder/{rows.groups[0].shard}"] for method in ("HEAD", "GET")])
    assert asked == [[1, 2], [0, 1], [0, 1]]
    assert np.array_equal(found["picture"], Rows(short_pictures, "valid").read(["picture"])["picture"])


def test_a_data_set_is_opened_without_a_look_at_its_shards(
    faulty: tuple[FaultyProxy, Folder], short_pictures: str
) -> None:
    """A store lists a thousand names at a time."""
    proxy, folder = faulty
    folder.send(Path(short_pictures) / "dataset.json")
    proxy.asked.clear()
    assert Rows(folder.name, "valid").num_rows == 4
    assert proxy.asked == {f"{method} /bucket/folder/dataset.json": 1 for method in ("HEAD", "GET")}


def test_no_half_of_an_upload_is_ever_seen(faulty: tuple[FaultyProxy, Folder]) -> None:
    proxy, folder = faulty
    folder.write("a", b"before")
    proxy.faults = ["cut upload"] * 50
    with pytest.raises(OSError):
        folder.write("a", CONTENT)
    proxy.faults = []
    assert folder.read("a") == b"before" and folder.list() == {"a"}


def test_a_link_opens_without_credentials(folder: Folder, tmp_path: Path) -> None:
    folder.write("report.html", b"page")
    link = folder.link("report.html")
    assert parse_qs(urlsplit(link).query).get("X-Amz-Expires", ["604800"]) == ["604800"]
    with urlopen(link if "://" in link else f"file://{link}") as answer:
        assert answer.read() == b"page" and answer.headers["Content-Type"] == "text/html"


def test_a_link_is_signed_for_where_the_bucket_is(bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    west = boto3.client("s3", "us-west-2", endpoint_url=f"http://{s3_server}")
    west.create_bucket(Bucket="west", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    for place, region in (("bucket", "us-east-1"), ("west", "us-west-2")):
        folder = Folder.open(bucket.replace("s3://bucket", f"s3://{place}"))
        assert f"/{region}/s3/aws4_request" in folder.link("report.html").replace("%2F", "/")


def test_what_can_be_written_is_known_before(folder: Folder, tmp_path: Path) -> None:
    folder.require_writable()
    assert folder.list() == set()
    (tmp_path / "file").touch()
    elsewhere = tmp_path / "file" / "folder"
    nowhere = folder.name.replace("/bucket/", "/nowhere/") if "://" in folder.name else elsewhere
    with pytest.raises(ValueError, match=r"cannot be written \(.*(not exist|Not a directory).*choose another --report"):
        Folder.open(nowhere).require_writable("--report")


def test_a_bucket_that_is_not_there_is_an_os_error(bucket: str) -> None:
    folder = Folder.open(bucket.replace("s3://bucket", "s3://another"))
    with pytest.raises(OSError, match="bucket does not exist"):
        folder.write("a", b"1")


def test_a_file_that_is_replaced_while_it_is_sent_is_sent_whole(bucket: str, tmp_path: Path) -> None:
    """As a model is by the next validation, while the one before is on its way."""
    folder, model, first_is_sent = Folder.open(bucket), tmp_path / "model", Event()
    model.write_bytes(bytes(3 * CHUNK))

    def replace_after_the_first(params: dict[str, Any], **_: object) -> None:
        if params["PartNumber"] > 1 and first_is_sent.wait(10):
            with lock, whole(model) as other:
                other.write_bytes(b"\1" * 3 * CHUNK)

    lock, events = Lock(), folder.client.meta.events  # type: ignore[attr-defined]
    events.register("before-parameter-build.s3.UploadPart", replace_after_the_first, "before")
    events.register("after-call.s3.UploadPart", lambda **_: first_is_sent.set(), "after")
    try:
        folder.send(model)
    finally:
        events.unregister("before-parameter-build.s3.UploadPart", unique_id="before")
        events.unregister("after-call.s3.UploadPart", unique_id="after")
    assert model.read_bytes()[0] == 1 and folder.read("model") == bytes(3 * CHUNK)


def test_a_file_that_is_replaced_while_it_is_fetched_arrives_whole(
    faulty: tuple[FaultyProxy, Folder], bucket: str, tmp_path: Path
) -> None:
    proxy, folder = faulty
    folder.write("model", bytes(3 * CHUNK))

    def replace_before_the_second(method: str, path: str) -> bool:
        if proxy.asked["GET /bucket/folder/model"] == 2:
            Folder.open(bucket).write("model", b"\1" * 3 * CHUNK)
        return False

    proxy.meant, proxy.faults = replace_before_the_second, ["500"]
    folder.fetch("model", tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == b"\1" * 3 * CHUNK


@pytest.mark.parametrize("fault", ["500", "503", "silence", "cut download"])
def test_fetching_goes_on_after_faults(faulty: tuple[FaultyProxy, Folder], fault: Fault, tmp_path: Path) -> None:
    proxy, folder = faulty
    folder.write("a", CONTENT)
    proxy.meant = lambda method, path: method == "GET"
    proxy.faults = [fault] * 2
    folder.fetch("a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT and proxy.made == [fault] * 2


def test_no_upload_in_parts_is_left_behind(bucket: str, s3_server: str) -> None:
    Folder.open(bucket).write("a", bytes(20_000_000))
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
    assert not client.list_multipart_uploads(Bucket="bucket").get("Uploads")


@pytest.mark.parametrize(
    ("address", "left"),
    [
        ("bucket/folder/part", ["folder-2/x", "folder/other/part/x", "folder/other/x", "folder/x", "part/x", "x"]),
        ("bucket/folder", ["folder-2/x", "folder/other/part/x", "folder/other/x", "part/x", "x"]),
        ("bucket", ["folder-2/x", "folder/other/part/x", "folder/other/x", "folder/part/below/x", "folder/x"]),
    ],
)
def test_what_broken_uploads_leave_is_cleared_here_and_in_parts(
    address: str, left: list[str], bucket: str, s3_server: str
) -> None:
    """But not in other folders within: others may be writing there."""
    keys = ["folder-2/x", "folder/other/part/x", "folder/other/x", "folder/part/below/x", "folder/x", "part/x", "x"]
    client = boto3.client("s3", endpoint_url=f"http://{s3_server}")
    for key in keys:
        client.create_multipart_upload(Bucket="bucket", Key=key)
    Folder.open(bucket.replace("bucket/folder", address)).clear_unfinished(["part", "below"])
    uploads = client.list_multipart_uploads(Bucket="bucket").get("Uploads", [])
    assert sorted(upload["Key"] for upload in uploads) == left


def test_what_a_kill_leaves_half_written_is_cleared_here_and_in_parts(tmp_path: Path) -> None:
    files = [tmp_path / place / f".x{HALF_WRITTEN}" for place in ("", "part/below", "other", "other/part")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    Folder.open(tmp_path).clear_unfinished(["part", "nowhere"])
    assert [file.exists() for file in files] == [False, False, True, True]


def test_a_name_that_is_not_utf8_hides_no_other_nor_does_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")).touch()
    (tmp_path / "leads_nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "leads_on_through_a_file").symlink_to(tmp_path / "a.wav" / "b.wav")
    (tmp_path / "a.wav").write_bytes(b"123")
    (tmp_path / "below").mkdir()
    sizes = Folder.open(tmp_path).sizes()
    assert sizes.pop("a.wav") == 3 and list(sizes.values()) == [0]
