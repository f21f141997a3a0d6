"""Objects, owners and copies of folders in a bucket, on servers of S3 and Google Cloud Storage on this machine."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import bucket_servers
import pytest

from dim_jax import evaluate, prepare, report, select, train
from dim_jax.cli import command_line
from dim_jax.runs import bucket_copies, buckets, files
from dim_jax.runs.bucket_copies import BucketCopy
from dim_jax.runs.bucket_owner import FILE_NAME, Owner
from dim_jax.runs.buckets import BucketFolder
from dim_jax.runs.local_paths import LocalPaths

PACKAGE = Path(buckets.__file__).parents[1]


@pytest.fixture(scope="module")
def server():
    with bucket_servers.s3() as address:
        yield address


@pytest.fixture
def folder(server, monkeypatch, request):
    bucket_servers.use_s3(server, monkeypatch)
    return BucketFolder(f"s3://{bucket_servers.BUCKET}/{request.node.name}")


@pytest.fixture
def proxied(server, monkeypatch, request):
    """A folder behind a proxy, and the proxy."""
    with bucket_servers.FaultyProxy(server) as proxy:
        bucket_servers.use_s3(proxy.address, monkeypatch)
        monkeypatch.setattr(buckets, "FIRST_PAUSE", 0.01)
        yield BucketFolder(f"s3://{bucket_servers.BUCKET}/{request.node.name}"), proxy


def one_line(capsys):
    """The only line on stderr, without its beginning."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    "url", ["s3://", "s3://slides", "s3:/slides/a", "gs://slides/", "s3://slides/../a", "gcs://b/a"]
)
def test_a_wrong_url_is_refused_with_the_right_form(url, capsys):
    assert command_line.run(train.main, ["--config=classifier:test", f"--workdir={url}"]) == 2
    assert "write s3://BUCKET/FOLDER" in one_line(capsys)


@pytest.mark.parametrize(("url", "package"), [("s3://slides/a", "s3fs"), ("gs://slides/a", "gcsfs")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch, capsys, url, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert command_line.run(evaluate.main, [f"--workdir={url}"]) == 2
    assert f"needs {package}" in (line := one_line(capsys)) and "pip install" in line


def test_options_for_paths_on_disk_refuse_urls(capsys, tmp_path):
    assert command_line.run(prepare.main, ["--source=phantom", "--out=s3://slides/data"]) == 2
    assert "this option is for paths on disk" in one_line(capsys)
    assert command_line.run(report.main, [str(tmp_path), "--out=s3://slides/page.html"]) == 2
    assert "this option is for paths on disk" in one_line(capsys)
    options = ["--pool=s3://slides/pool", "--data=data", "--classifier=a", f"--out={tmp_path / 'selected'}"]
    assert command_line.run(select.main, options) == 2
    assert "--pool and --out must be in one bucket" in one_line(capsys)
    assert command_line.run(train.main, ["--config=classifier:test", f"--workdir={tmp_path / 'a'}", "--take-over"]) == 2
    assert "--take-over is for a folder in a bucket" in one_line(capsys)
    assert not list(tmp_path.iterdir())


def test_only_one_module_knows_the_stores_and_only_urls_load_them():
    users = [path.name for path in PACKAGE.rglob("*.py") if "fsspec" in path.read_text()]
    assert users == ["buckets.py"]
    code = "import sys, dim_jax.runs.local_paths as l, dim_jax.data.bucket_images as b\n"
    code += "with l.LocalPaths() as paths: paths.write('runs/a')\n"
    code += "b.fetch('data')\nprint({'fsspec', 's3fs', 'gcsfs'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_objects_are_written_listed_read_and_deleted(folder, tmp_path):
    assert folder.list() == {}
    folder.write("a/b", b"1234")
    (tmp_path / "c").write_bytes(b"56")
    folder.upload("c", tmp_path / "c")
    assert {name: entry.size for name, entry in folder.list().items()} == {"a/b": 4, "c": 2}
    before = folder.list()["c"].version
    folder.write("c", b"78")
    assert folder.list()["c"].version != before
    folder.download({"a/b": tmp_path / "x" / "b"})
    assert (tmp_path / "x" / "b").read_bytes() == b"1234" and folder.read("c") == b"78"
    folder.delete(["c", "no such"])
    assert list(folder.list()) == ["a/b"]
    with pytest.raises(FileNotFoundError, match="cannot be read"):
        folder.read("c")


def test_a_large_file_is_uploaded_in_parts(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "LARGE", 1000)
    (tmp_path / "large").write_bytes(bytes(range(256)) * 40)
    folder.upload("large", tmp_path / "large")
    assert folder.read("large") == bytes(range(256)) * 40


def test_an_object_whose_name_leads_out_of_the_folder_is_refused(folder):
    folder._store.pipe_file(f"{folder.bucket}/{folder.prefix}/x/../../y", b"1")
    with pytest.raises(ValueError, match="no name for a local file"):
        folder.list()


@pytest.mark.parametrize("fault", [429, 500, 503, "cut", "lost", "half", "slow"])
def test_a_passing_fault_changes_no_result(proxied, fault, tmp_path):
    folder, proxy = proxied

    def twice(function, *arguments):
        proxy.faults.extend([fault] * 2)
        result = function(*arguments)
        proxy.faults.clear()
        return result

    twice(folder.write, "a", b"1" * 1000)
    assert twice(folder.read, "a") == b"1" * 1000
    assert twice(folder.create, "owner", b"first") and not twice(folder.create, "owner", b"second")
    assert folder.read("owner") == b"first"
    assert list(twice(folder.list)) == ["a", "owner"]
    twice(folder.download, {"a": tmp_path / "a"})
    assert (tmp_path / "a").read_bytes() == b"1" * 1000
    twice(folder.delete, ["a"])
    assert list(folder.list()) == ["owner"] and proxy.hit[fault] >= 6


def test_a_bucket_that_cannot_be_reached_is_one_line(monkeypatch, capsys):
    pytest.importorskip("s3fs")
    bucket_servers.use_s3(f"http://127.0.0.1:{bucket_servers.free_port()}", monkeypatch)
    monkeypatch.setattr(buckets, "PATIENCE", 0.5)
    assert command_line.run(train.main, ["--config=classifier:test", "--workdir=s3://slides/a"]) == 2
    assert "s3://slides/a/.owner.json cannot be written" in one_line(capsys)


def test_a_bucket_that_is_not_there_or_cannot_be_written_is_one_line_and_stays_as_it_was(proxied, capsys):
    folder, proxy = proxied
    options = ["--config=classifier:test", "--config.data.path=phantom"]
    assert command_line.run(train.main, [*options, "--workdir=s3://elsewhere/a"]) == 2
    assert "check that the bucket exists" in one_line(capsys)
    proxy.is_hit = lambda method, path: method == "PUT"
    proxy.faults.extend([403] * 100)
    assert command_line.run(train.main, [*options, f"--workdir={folder.url}"]) == 2
    assert f"{folder.url}/.owner.json cannot be written" in one_line(capsys)
    proxy.faults.clear()
    assert folder.list() == {}


def test_bad_input_leaves_nothing_in_the_bucket(folder, capsys):
    for more in (["--config=classifier:test", "--config.nothing=1"], ["--config=classifier:test"], []):
        assert command_line.run(train.main, [*more, f"--workdir={folder.url}"]) == 2
        assert "\n" not in one_line(capsys)
        assert folder.list() == {}
    options = ["--config=experiment:test", "--config.data.path=phantom", f"--workdir={folder.url}"]
    assert command_line.run(train.main, options) == 2
    assert f"{folder.url}: an experiment needs a --workdir on disk" in one_line(capsys)
    assert command_line.run(evaluate.main, [f"--workdir={folder.url}"]) == 2
    assert folder.url in one_line(capsys) and folder.list() == {}
    folder.write("slide1.tif", b"1")
    assert command_line.run(evaluate.main, [f"--workdir={folder.url}"]) == 2
    assert "holds no run, pool or selection, but slide1.tif" in one_line(capsys)


def test_of_many_that_begin_at_once_one_becomes_the_owner(folder):
    owners, refused, start = [], [], threading.Barrier(8)

    def begin():
        start.wait()
        try:
            owners.append(Owner(folder))
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(owners) == 1 and len(refused) == 7
    record = json.loads(folder.read(FILE_NAME))
    expected = f"in use by process {record['process']} on {record['host']} since {record['time']}"
    assert all(expected in text and "--take-over" in text for text in refused)
    owners[0].release()
    Owner(folder).release()
    assert folder.list() == {}


def test_a_second_writer_is_refused_until_it_takes_over_and_the_first_then_stops(folder, capsys):
    with LocalPaths() as first:
        run = Path(first.write(folder.url))
        run.mkdir()
        files.write_json(run / "config.json", {"of": "the first"})
        assert command_line.run(train.main, [f"--workdir={folder.url}"]) == 2
        assert f"{folder.url} is in use by process" in one_line(capsys)
    assert folder.read("config.json")
    with (
        pytest.raises(ValueError, match=r"taken over by another process.* the local copy is still in") as error,
        LocalPaths() as first,
    ):
        run = Path(first.write(folder.url))
        files.write_json(run / "config.json", {"of": "the first again"})
        with LocalPaths(take_over=True) as second:
            copied = Path(second.write(folder.url), "config.json")
            assert json.loads(copied.read_text()) == {"of": "the first"}
            files.write_json(copied, {"of": "the second"})
    assert json.loads(folder.read("config.json")) == {"of": "the second"}
    assert list(folder.list()) == ["config.json"]
    kept = Path(str(error.value).rpartition(" ")[2])
    assert (kept / "s3" / folder.bucket / folder.prefix / "config.json").is_file()


def test_a_process_whose_run_is_taken_over_is_stopped_by_a_signal(folder, monkeypatch):
    monkeypatch.setattr(bucket_copies, "SECONDS", 0.05)

    def work(arguments):
        with LocalPaths() as paths:
            paths.write(folder.url)
            Owner(folder, take_over=True)
            for _ in range(600):
                time.sleep(0.1)
            pytest.fail("it went on")

    assert command_line.run(work, []) == 2


def test_a_store_without_preconditions_is_named_in_a_warning(folder, monkeypatch, caplog):
    monkeypatch.setattr(BucketFolder, "create", lambda self, name, data: self.write(name, data) is None)
    Owner(folder).release()
    assert "ignores preconditions" in caplog.text


def checkpoint(folder, step):
    """Writes files as those of a checkpoint."""
    with files.replacement(folder / str(step), is_folder=True) as temporary:
        for name in ("arrays/a", "arrays/b", "notes.json"):
            files.write_text(temporary / name, f"{name} of {step}")
        files.write_json(temporary / "sha256.json", {"arrays/a": "", "arrays/b": "", "notes.json": ""})


def test_files_are_uploaded_in_the_order_of_their_writing_with_the_metrics_first(folder, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    copy = BucketCopy(folder, tmp_path / "a")
    files.write_text(tmp_path / "a" / "manifest.json", "1")
    files.write_text(tmp_path / "a" / "config.json", "2")
    checkpoint(tmp_path / "a" / "best", 4)
    checkpoint(tmp_path / "a" / "checkpoints", 4)
    files.write_text(tmp_path / "a" / "metrics.jsonl", "3")
    files.write_text(tmp_path / "a" / ".lock", "only here")
    calls = []
    for name in ("upload", "delete"):
        call = getattr(folder, name)
        monkeypatch.setattr(folder, name, lambda first, *rest, call=call: (calls.append(first), call(first, *rest)))
    copy.upload()
    names = [name for name in calls if name]
    assert names[:3] == ["metrics.jsonl", "manifest.json", "config.json"]
    assert names[6] == "best/4/sha256.json" and names[-1] == "checkpoints/4/sha256.json" and len(names) == 11
    calls.clear()
    copy.upload()
    assert not any(calls)
    calls.clear()
    checkpoint(tmp_path / "a" / "checkpoints", 8)
    files._remove(tmp_path / "a" / "checkpoints" / "4")
    copy.upload()
    assert calls[3] == "checkpoints/8/sha256.json" and calls[4][0] == "checkpoints/4/sha256.json"
    assert not any(name.startswith("checkpoints/4") for name in folder.list())


def test_an_interrupted_upload_gives_a_copy_without_the_checkpoint_that_it_interrupted(proxied, tmp_path, monkeypatch):
    folder, proxy = proxied
    (tmp_path / "a").mkdir()
    files.write_text(tmp_path / "a" / "config.json", "{}")
    checkpoint(tmp_path / "a" / "checkpoints", 4)
    copy = BucketCopy(folder, tmp_path / "a")
    copy.upload()
    checkpoint(tmp_path / "a" / "checkpoints", 8)
    monkeypatch.setattr(buckets, "PATIENCE", 0.0)
    proxy.is_hit = lambda method, path: path.endswith("8/notes.json")
    proxy.faults.append(503)
    with pytest.raises(OSError, match="cannot be written"):
        copy.upload()
    assert "checkpoints/8/arrays/a" in folder.list()
    again = BucketCopy(folder, tmp_path / "b")
    again.download()
    again.upload()  # of a reader, which leaves the upload of others alone
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["4"]
    assert "checkpoints/8/arrays/a" in folder.list()
    again.download(is_owned=True)
    again.upload()
    assert not any(name.startswith("checkpoints/8") for name in folder.list())


def test_copies_that_could_not_be_uploaded_stay_and_their_place_is_said(proxied, monkeypatch):
    folder, proxy = proxied
    with (
        pytest.raises(OSError, match=r"cannot be written .* the local copy is still in") as error,
        LocalPaths() as paths,
    ):
        run = Path(paths.write(folder.url))
        run.mkdir()
        files.write_text(run / "config.json", "{}")
        monkeypatch.setattr(buckets, "PATIENCE", 0.0)
        proxy.is_hit = lambda method, path: method == "PUT"
        proxy.faults.extend([503] * 10)
    assert Path(str(error.value).rpartition(" ")[2], "s3", folder.bucket, folder.prefix, "config.json").is_file()


def test_google_cloud_storage_is_written_and_read(tmp_path, monkeypatch):
    gcsfs = pytest.importorskip("gcsfs")
    pytest.importorskip("gcp_storage_emulator")
    with bucket_servers.gcs(tmp_path / "server") as address:
        gcsfs.GCSFileSystem.clear_instance_cache()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        folder = BucketFolder(f"gs://{bucket_servers.BUCKET}/runs/a")
        with LocalPaths() as paths:
            run = Path(paths.write(folder.url))
            run.mkdir()
            files.write_text(run / "config.json", "{}")
            checkpoint(run / "checkpoints", 4)
        with LocalPaths() as paths:
            run = Path(paths.update(folder.url))
            assert (run / "checkpoints" / "4" / "arrays" / "b").read_text() == "arrays/b of 4"
            files.write_text(run / "config.json", "{1}")
            files._remove(run / "checkpoints" / "4")
        assert {name: entry.size for name, entry in folder.list().items()} == {"config.json": 3}
