"""Fetch CIFAR-10 over the network and unpack it: all of it, checked, or nothing."""

from __future__ import annotations

import errno
import tarfile
from pathlib import Path

from lantk.data.base import DataError, DataPath
from lantk.data.sources import CIFAR10_FILES, CIFAR10_FOLDER, CIFAR10_TIME, cifar10_folder
from lantk.files import writing

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_CHUNK_BYTES = 2**20
_TIMEOUT_SECONDS = 60


def fetch(
    source: str, path: DataPath = None, *, url: str = CIFAR10_URL, md5: str = CIFAR10_MD5
) -> None:
    """Download a source that is not there yet; do nothing for one that is, or cannot be.

    A folder that is there is complete: it takes its name at the end. When another process was
    faster, its folder stays.

    Raises
    ------
    DataError
        If the download fails or is not the archive wanted. Nothing is left behind.
    OSError
        If the folder cannot be written.
    """
    if source != "cifar10" or (folder := cifar10_folder(path)).is_dir():
        return
    import requests

    try:
        with writing(folder) as unpacked:
            unpacked.mkdir()
            _download_into(unpacked, url, md5)
    # Of the network, and of an archive with another MD5.
    except (requests.RequestException, ValueError) as error:
        if isinstance(error, requests.HTTPError) and error.response is not None:
            error.response.close()  # it holds the connection
        raise DataError(
            f"{url} could not be downloaded: {error}. Try again, or download it by hand and unpack"
            f" it so that {folder / CIFAR10_FILES[0]} is there, or set data.path to a folder that"
            f" holds {CIFAR10_FOLDER}"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _download_into(folder: Path, url: str, md5: str) -> None:
    import pooch
    from tqdm import tqdm

    pooch.get_logger().setLevel("WARNING")
    shown = url.rpartition("/")[2]
    # Any total but 0, until the server has said how much it sends.
    with tqdm(total=1, desc=shown, unit="B", unit_scale=True, mininterval=1) as progress:
        get = pooch.HTTPDownloader(
            progressbar=progress, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_SECONDS
        )
        archive = pooch.retrieve(url, f"md5:{md5}", "archive.tar.gz", folder, downloader=get)
    with tarfile.open(archive) as tar:
        for name in CIFAR10_FILES:
            member = tar.getmember(f"{CIFAR10_FOLDER}/{name}")
            member = member.replace(name=name, mtime=CIFAR10_TIME, deep=False)
            tar.extract(member, folder, filter="data")
    Path(archive).unlink()
