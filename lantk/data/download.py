"""Fetch an archive over the network and unpack it: all of it, checked, or nothing."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import os
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

from tqdm import tqdm

from lantk.errors import LantkError
from lantk.files import writing

_CHUNK_BYTES = 2**20
_TIMEOUT_SECONDS = 60


class DownloadError(LantkError):
    """An archive that did not arrive, or is not the one wanted; the message says which."""


def fetch_archive(
    url: str, folder: str | os.PathLike[str], members: Collection[str], *, md5: str, largest: int
) -> None:
    """Download a ``.tar.gz`` archive and unpack one folder of it, safely.

    Everything happens in a temporary folder beside `folder`, which takes that name at the end: a
    folder that is there is complete. When another process was faster, its folder stays.

    Parameters
    ----------
    url : str
        Where the archive is.
    folder : path-like
        Where the members go. Its last part is the name of the folder in the archive.
    members : collection of str
        Names of the files wanted, without the folder. Others are not unpacked.
    md5 : str
        MD5 of the archive, hexadecimal.
    largest : int
        Bytes that the archive, and any file in it, may have at most.

    Raises
    ------
    DownloadError
        If the network fails, the MD5 differs, or the archive is not as described.
    OSError
        If the folder cannot be written.
    """
    folder = Path(folder)
    try:
        with writing(folder) as unpacked:
            unpacked.mkdir()
            archive = unpacked / "archive.tar.gz"
            _download(url, archive, md5=md5, largest=largest)
            _unpack(archive, unpacked, folder.name, members, largest)
            archive.unlink()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _download(url: str, path: Path, *, md5: str, largest: int) -> None:
    digest = hashlib.md5(usedforsecurity=False)
    n_bytes = 0
    with path.open("wb") as file:
        for chunk in _chunks(url):
            n_bytes += len(chunk)
            if n_bytes > largest:
                raise DownloadError(f"{url} sent more than the {largest} bytes that it may have")
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != md5:
        raise DownloadError(
            f"{url} sent {n_bytes} bytes with MD5 {digest.hexdigest()}, wanted MD5 {md5}: the"
            " download was cut short, or is another file"
        )


def _chunks(url: str) -> Iterator[bytes]:
    """Yield what `url` sends and show progress; any failure of the network is one error."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            total = response.headers.get("Content-Length", "")
            with tqdm(
                total=int(total) if total.isdecimal() else None,
                desc=url.rpartition("/")[2],
                unit="B",
                unit_scale=True,
                mininterval=1,
            ) as progress:
                while chunk := response.read(_CHUNK_BYTES):
                    progress.update(len(chunk))
                    yield chunk
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # It holds the connection.
        raise DownloadError(f"{url} could not be downloaded: {error}") from error


class _BoundedGzip(gzip.GzipFile):
    """A compressed file that refuses to become longer than it may, however small it is on disk."""

    def __init__(self, path: Path, largest: int) -> None:
        super().__init__(path)
        self._largest = largest

    def read(self, size: int | None = -1) -> bytes:
        left = self._largest - self.tell()
        # Files are read in small pieces; only a header could ask for more at once.
        if size is None or not 0 <= size <= _CHUNK_BYTES:
            raise DownloadError(f"the archive has a header of more than {_CHUNK_BYTES} bytes")
        content = super().read(min(size, left + 1))
        self._check(self.tell())
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check(offset)
        return super().seek(offset, whence)

    def _check(self, end: int) -> None:
        if end > self._largest:
            raise DownloadError(
                f"the archive unpacks to more than the {self._largest} bytes that it may have"
            )


def _unpack(
    archive: Path, folder: Path, prefix: str, members: Collection[str], largest: int
) -> None:
    """Write `members` of the folder `prefix` of the archive into `folder`, and nothing else."""
    missing = set(members)
    try:
        with (
            _BoundedGzip(archive, (len(members) + 1) * largest) as stream,
            tarfile.open(fileobj=stream, mode="r:") as tar,
        ):
            for member in tar:
                # Raises on a name, or a link, that would leave the folder, wanted or not.
                tarfile.data_filter(member, str(folder))
                start, _, name = member.name.partition("/")
                if start != prefix or name not in members:
                    continue
                if not member.isfile() or member.size > largest:
                    raise DownloadError(
                        f"{member.name} in the archive is no plain file of at most {largest} bytes"
                    )
                tar.extract(member.replace(name=name, deep=False), folder, filter="data")
                missing.discard(name)
            # To the end, where the checksum is: the archive itself ends before.
            while stream.read(_CHUNK_BYTES):
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DownloadError(f"the archive cannot be unpacked safely: {error}") from error
    if missing:
        raise DownloadError(f"the archive lacks {', '.join(sorted(missing))}")
