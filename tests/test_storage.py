"""Files appear whole or not at all."""

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lantk import files as storage
from lantk.errors import LantkError
from lantk.files import expand_address, expand_path, writing, writing_array


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def write_half(path, stop):
    """Write into a temporary file for `path`, then call `stop`."""
    with writing(path) as temporary:
        temporary.write_text("half")
        stop()


def fail(error):
    """Return a function that raises `error`."""

    def raise_it():
        raise error

    return raise_it


def fail_with(error):
    """Return a function of anything that raises `error`."""
    return lambda *_: fail(error)()


def test_file_appears_under_its_name_only_after_the_block(tmp_path):
    """The name is free inside the block; after it, the file is there and nothing beside it."""
    path = tmp_path / "new" / "folder" / "table.csv"
    with writing(path) as temporary:
        assert isinstance(temporary, Path)
        assert temporary.parent.parent == path.parent
        assert temporary.parent.name.startswith(".")
        assert temporary.name == path.name
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert names(path.parent) == ["table.csv"]


def test_older_file_is_replaced(tmp_path):
    """A finished block replaces the file that was there."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with writing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_failure_leaves_the_older_file_and_nothing_else(tmp_path):
    """An exception in the block removes the temporary file and spares the older one."""
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"):
        write_half(path, fail(RuntimeError("in the middle")))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_interrupt_leaves_nothing(tmp_path):
    """Ctrl-C in the middle of a write leaves the folder empty."""
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a.txt", lambda: signal.raise_signal(signal.SIGINT))
    assert names(tmp_path) == []


def test_folders_are_written_whole_or_not_at_all(tmp_path):
    """A block may make a folder; a failing one leaves no part of it."""

    def write_folder(name, stop):
        with writing(tmp_path / name) as temporary:
            (temporary / "inner").mkdir(parents=True)
            (temporary / "inner" / "file").write_text("x")
            stop()

    write_folder("good", lambda: None)
    assert (tmp_path / "good" / "inner" / "file").read_text() == "x"
    with pytest.raises(RuntimeError, match="in the middle"):
        write_folder("bad", fail(RuntimeError("in the middle")))
    assert names(tmp_path) == ["good"]


def test_block_that_writes_nothing_is_an_error(tmp_path):
    """A block that leaves nothing at the temporary name raises, and names the file wanted."""
    with (
        pytest.raises(FileNotFoundError, match=r"nothing was written.*a\.txt"),
        writing(tmp_path / "a.txt"),
    ):
        pass
    assert names(tmp_path) == []


def test_folder_in_the_way_is_an_error_and_stays(tmp_path):
    """A name that is a folder is not replaced by a file."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="'"):
        write_half(tmp_path / "a", lambda: None)
    assert names(tmp_path) == ["a"]
    assert names(tmp_path / "a") == ["b"]


def test_two_writers_of_one_file_are_not_in_each_others_way(tmp_path):
    """Two writers of one file have different temporary names; the last to end stands."""
    with writing(tmp_path / "a") as first, writing(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"
    assert names(tmp_path) == ["a"]


KILLED = """
import os, sys, time
from lantk.files import writing
with writing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    """A write removes what SIGKILL left in its folder, and nothing of processes that live."""
    path = tmp_path / "a.txt"
    processes = [
        subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    dead, living = (Path(process.stdout.readline().strip()) for process in processes)
    # Of another machine: its locks may not be seen here.
    foreign = tmp_path / ".tmp-00000000-0123456789ab"
    foreign.mkdir()
    processes[0].kill()
    processes[0].communicate()
    try:
        assert dead.read_text() == "half"
        with writing(tmp_path / "b.txt") as temporary:
            temporary.write_text("whole")
        assert set(names(tmp_path)) == {"b.txt", living.parent.name, foreign.name}
        assert living.read_text() == "half"
    finally:
        processes[1].terminate()
        processes[1].communicate()


def test_a_folder_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    """A writer whose hidden folder was taken for abandoned, not being locked yet, makes another."""
    lock = storage.fcntl.flock
    taken = []

    def remove_first(descriptor, operation):
        if not taken and not operation & storage.fcntl.LOCK_NB:
            taken.extend(tmp_path.iterdir())
            taken[0].rmdir()
        lock(descriptor, operation)

    monkeypatch.setattr(storage.fcntl, "flock", remove_first)
    with writing(tmp_path / "a.txt") as temporary:
        assert temporary.parent != taken[0]
        temporary.write_text("whole")
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    """A read-only file system, or a missing permission, names the folder and what to do."""
    monkeypatch.setattr(
        storage.os, "open", fail_with(OSError(errno.EROFS, os.strerror(errno.EROFS)))
    )
    with pytest.raises(OSError, match=r"cannot be written \(Read-only.*take another"):
        write_half(tmp_path / "a.txt", lambda: None)


def test_longest_name_a_folder_takes_can_be_written(tmp_path):
    """A name of 255 bytes, the limit, does not make the temporary name too long."""
    path = tmp_path / ("x" * 251 + ".npz")
    with writing(path) as temporary:
        temporary.write_text("x")
    assert path.exists()


def test_permissions_are_those_of_an_ordinary_new_file(tmp_path):
    """The file can be read by whomever the umask lets read it, unlike Python's temporary files."""
    with writing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
    assert stat.S_ISREG((tmp_path / "a").stat().st_mode)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_has_a_message_that_says_what_to_do(tmp_path, number):
    """A full disk, or a used-up quota, is an OSError with the file, the space left and a remedy."""
    path = tmp_path / "gram.npy"
    path.write_text("old")
    with pytest.raises(OSError, match=r"disk is full.*MiB free.*gram\.npy") as caught:
        write_half(path, fail(OSError(number, os.strerror(number))))
    assert caught.value.errno == number
    assert path.read_text() == "old"
    assert names(tmp_path) == ["gram.npy"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device of Linux")
def test_write_to_a_device_without_space_gives_the_same_message(tmp_path):
    """What a device without space answers to a write ends in the message about the full disk."""

    def write():
        with writing(tmp_path / "a.txt") as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("x")

    with pytest.raises(OSError, match="disk is full"):
        write()
    assert names(tmp_path) == []


def test_other_errors_of_the_system_pass_unchanged(tmp_path):
    """A refused permission is not called a full disk."""
    with pytest.raises(PermissionError, match="no entry"):
        write_half(tmp_path / "a", fail(PermissionError(errno.EACCES, "no entry")))


def test_failing_flush_removes_the_file(tmp_path, monkeypatch):
    """When the disk refuses at the flush, after all writes went well, nothing appears."""
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: fail(full)())
    with pytest.raises(OSError, match="disk is full"):
        write_half(tmp_path / "a", lambda: None)
    assert names(tmp_path) == []


def test_an_array_on_disk_is_whole_or_not_there(tmp_path):
    """An array appears once every element is written; one left out, or an error, leaves nothing."""
    path = tmp_path / "k.npy"
    with writing_array(path, (3, 2), "float32") as array:
        assert np.isnan(array).all()
        assert not path.exists()
        array[:] = 1
    np.testing.assert_array_equal(np.load(path), np.ones((3, 2), np.float32))
    with (
        pytest.raises(OSError, match=r"row 2 of k\.npy was not computed"),
        writing_array(path, (3, 2), "float32") as array,
    ):
        array[:2] = 2
    with pytest.raises(KeyboardInterrupt), writing_array(path, (3, 2), "float32") as array:
        raise KeyboardInterrupt
    assert [file.name for file in tmp_path.iterdir()] == ["k.npy"]
    assert np.load(path)[0, 0] == 1


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Return a home folder and work in another one, with a variable that names a third."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SCRATCH", "/scratch//me")
    monkeypatch.delenv("NOWHERE", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("~", "{home}"),
        ("~/a//b/", "{home}/a/b"),
        ("$SCRATCH/a", "/scratch/me/a"),
        ("a/${SCRATCH}b", "a/scratch/meb"),
        ("./a//b/./c/", "a/b/c"),
        ("//a", "/a"),
        ("..//a/../b", "../a/../b"),
        (".", "{here}"),
        ("./-a", "{here}/-a"),
        ("./~a", "{here}/~a"),
        ("-a", "-a"),
        ("a~ $0 $( $$ {x} \\n b", "a~ $0 $( $$ {x} \\n b"),
    ],
)
def test_a_path_is_what_a_shell_and_the_system_take_it_for(home, given, wanted):
    """~ and variables are filled in and ./ and // go; to do it again changes nothing."""
    wanted = wanted.replace("{home}", str(home)).replace("{here}", str(Path.cwd()))
    assert expand_path(given) == wanted
    assert expand_path(wanted) == wanted


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "wanted a path"),
        ("$NOWHERE/x", "the variable NOWHERE is not set. Set it, or"),
        ("a/${NOWHERE}", "the variable NOWHERE is not set"),
        (
            "~no-such-user/x",
            "no home folder '~no-such-user'. For that name write './~no-such-user/x'",
        ),
        ("~\0/x", "no home folder '~\\x00'"),
        ("a/~/b", "without a folder called ~"),
        ("$TWICE/b", "or a $ before a name"),
    ],
)
def test_a_path_that_cannot_be_expanded_is_refused(home, monkeypatch, given, message):
    """A variable that is not set, and a folder ~, are errors that say so."""
    monkeypatch.setenv("TWICE", "$SCRATCH")
    with pytest.raises(LantkError) as refused:
        expand_path(given)
    assert str(refused.value).startswith(repr(given))
    assert message in str(refused.value)


def test_the_address_of_a_store_has_its_path_expanded(home):
    """A database file may lie in the home folder; other addresses stay as they are."""
    assert expand_address("sqlite:///~/m.db?a=$x") == f"sqlite:///{home}/m.db?a=$x"
    assert (
        expand_address("sqlite+pysqlite:////$SCRATCH/m.db") == "sqlite+pysqlite:////scratch/me/m.db"
    )
    for other in ("https://host//~/$NOWHERE", "postgresql://me@host/$db", "sqlite:///:memory:"):
        assert expand_address(other) == other


def test_no_folder_is_called_by_the_sign_of_the_home_folder(home):
    """A file below ~ is written in the home folder."""
    with writing("~/a/b") as temporary:
        temporary.write_text("b")
    assert (home / "a" / "b").read_text() == "b"
    assert not list(Path.cwd().iterdir())
