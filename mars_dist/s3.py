"""Folders in S3, read by pyarrow and written by boto3.

What is in memory is written by one request, which knows conditions ("only where there is none yet"), carries a
checksum, and leaves no half of an upload behind; large files go in several parts at once. Both find credentials as
AWS's own tools do; an endpoint of one's own is AWS_ENDPOINT_URL, or
s3://bucket/path?endpoint_override=host:port&scheme=http.
"""

import mimetypes
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from pyarrow import fs

from mars_dist.storage import CHUNK, Folder
from mars_dist.whole import whole

ATTEMPTS = 8
"""Of a request that S3 answers with 500 or 503, or not at all: about a minute in all."""
CONNECT_SECONDS, ANSWER_SECONDS = 5, 30
WEEK = 7 * 24 * 3600
"""Seconds: the longest that S3 grants to an address."""


@dataclass(frozen=True)
class S3Folder(Folder):
    name: str
    path: str
    endpoint_override: str | None = None
    """host:port, of a store that is not Amazon's."""
    at_once = 8
    scheme: str = field(default="https", kw_only=True)
    region: str | None = field(default=None, kw_only=True)

    @property
    def files(self) -> fs.FileSystem:
        return _file_system(self.endpoint_override, self.scheme, self.region)

    def sub(self, name: str) -> "S3Folder":
        path = os.path.normpath(f"{self.path}/{name}")
        _, question, settings = self.name.partition("?")
        return replace(self, name=f"s3://{path}{question}{settings}", path=path)

    @property
    def client(self) -> Any:
        """boto3's."""
        return _client(self.endpoint_override, self.scheme, self.region)

    def list(self) -> set[str]:
        return {info.base_name for info in self.infos()}

    def sizes(self) -> dict[str, int]:
        return {info.base_name: info.size for info in self.infos() if info.is_file}

    def infos(self) -> Sequence[fs.FileInfo]:
        """Of all that is in the folder. Raises OSError."""
        found: Sequence[fs.FileInfo] = self.files.get_file_info(fs.FileSelector(self.path, allow_not_found=True))
        return found

    def read(self, file: str) -> bytes:
        with self.files.open_input_file(self.at(file)) as stream:
            content: bytes = stream.read()
            return content

    def write(self, file: str, data: bytes | pa.Buffer) -> None:
        self._put(file, data)

    def send(self, path: Path) -> None:
        """Opened once, not for each part: meanwhile another file may be put in its place."""
        key = self._key(path.name)
        with _os_error(self.at(path.name)), path.open("rb") as file:
            self.client.upload_fileobj(file, key["Bucket"], key["Key"])

    def fetch(self, file: str, path: Path) -> None:
        """Part by part, all of one state of the file: from the beginning where another takes its place meanwhile."""
        from boto3.s3.transfer import TransferConfig
        from s3transfer.exceptions import S3DownloadFailedError

        key, in_turn = self._key(file), TransferConfig(multipart_chunksize=CHUNK, use_threads=False)
        while True:
            try:
                with _os_error(self.at(file)), whole(path) as half_written, half_written.open("wb") as copy:
                    return self.client.download_fileobj(key["Bucket"], key["Key"], copy, Config=in_turn)
            except S3DownloadFailedError:
                continue

    def clear_unfinished(self, parts: Collection[str]) -> None:
        """Pieces of what was not finished stay unseen in a bucket, and are paid for."""
        bucket, _, key = self.path.partition("/")
        prefix = f"{key}/" if key else ""  # a folder may be the bucket itself
        with _os_error(self.path):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
            for page in pages:
                for upload in page.get("Uploads", ()):
                    file, id = upload["Key"], upload["UploadId"]
                    part, *within = PurePosixPath(file).relative_to(key).parts
                    if not within or part in parts:
                        self.client.abort_multipart_upload(Bucket=bucket, Key=file, UploadId=id)

    def swap(self, file: str, old: bytes | None, new: bytes) -> bool:
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"}
        try:
            if old is not None:
                with _os_error(self.at(file)):
                    found = self.client.get_object(**self._key(file))
                    if found["Body"].read() != old:
                        return False
                condition = {"IfMatch": found["ETag"]}
            self._put(file, new, **condition)
        except OSError as error:
            refused = error.__cause__
            # 412: another is there; 409: another comes at this moment; 404: it has gone, or there is no such bucket.
            lost = (409, 412) if old is None else (404, 409, 412)
            if isinstance(refused, ClientError) and _status(refused) in lost:
                return False
            raise
        return True

    def link(self, file: str) -> str:
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"  # without it a browser saves a page
        with _os_error(self.at(file)):
            asked = self._key(file) | {"ResponseContentType": kind}
            client = _client(self.endpoint_override, self.scheme, self._bucket_region())
            return str(client.generate_presigned_url("get_object", asked, WEEK))

    def free_bytes(self) -> int | None:
        return None

    def _bucket_region(self) -> str | None:
        """Which an address is signed for: requests are sent on to where the bucket is, addresses are not."""
        from botocore.exceptions import ClientError

        try:
            answer = self.client.head_bucket(Bucket=self.path.partition("/")[0])
        except ClientError as refused:  # S3 tells it all the same
            answer = refused.response
        region: str | None = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", self.region)
        return region

    def _put(self, file: str, data: bytes | pa.Buffer, **condition: str) -> None:
        with _os_error(self.at(file)):
            self.client.put_object(**self._key(file), Body=bytes(data), **condition)

    def _key(self, file: str) -> dict[str, str]:
        bucket, _, key = self.at(file).partition("/")
        return {"Bucket": bucket, "Key": key}


@lru_cache
def _file_system(endpoint: str | None, scheme: str, region: str | None) -> fs.FileSystem:
    given = {"endpoint_override": endpoint, "scheme": scheme} if endpoint else {}
    return fs.S3FileSystem(
        region=region,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=ANSWER_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        **given,
    )


@lru_cache
def _client(endpoint: str | None, scheme: str, region: str | None) -> Any:
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        signature_version="s3v4",
    )
    return boto3.client(
        "s3", region_name=region, config=config, endpoint_url=f"{scheme}://{endpoint}" if endpoint else None
    )


@contextmanager
def _os_error(place: str) -> Iterator[None]:
    """What boto3 says of a place, as an OSError: the one kind that callers know."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from s3transfer.exceptions import RetriesExceededError

    try:
        yield
    except (Boto3Error, BotoCoreError, ClientError, RetriesExceededError) as error:
        raise OSError(f"{place}: {' '.join(str(error).split())}") from error


def _status(error: Any) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
