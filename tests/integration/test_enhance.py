"""The command-line client against the real service, and against one that misbehaves."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from superres.web.api_keys import hash_key, make_key
from testkit import loopback
from testkit.command_line import command, draw, names_in, run
from testkit.service import Service, run_light_service, run_service, unshare_mounts
from testkit.waiting import WAIT_SECONDS, wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_service(tmp_path_factory.mktemp("service"), lanes=1) as running:
        yield running


def test_files_and_folders_are_made_and_not_made_again(service: Service, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "a.png", 1)
    draw(source / "deep" / "b.jpg", 2)
    draw(source / "same.png", 3)
    draw(source / "same.jpg", 4)
    (source / "notes.txt").write_text("no picture")
    draw(source / ".hidden.png", 6)
    draw(source / ".git" / "c.png", 7)
    (source / "._a.png").write_bytes(b"what macOS keeps beside a file")
    single = draw(tmp_path / "single.png", 5)
    arguments = (source, single, "-o", out, "--url", service.url)
    first = run(*arguments)
    assert first.returncode == 0, first.stderr
    assert "5 of 5 images upscaled" in first.stderr
    assert "notes.txt: skipped, not an image" in first.stderr
    assert "1 skipped" in first.stderr
    expected = {"a_x3.png", "deep/b.jpg_x3.png", "same_x3.png", "same.jpg_x3.png", "single_x3.png"}
    assert names_in(out) == expected
    with Image.open(out / "a_x3.png") as result:
        assert result.size == (144, 144)
    again = run(*arguments)
    assert "0 of 0 images upscaled" in again.stderr
    assert "5 already there" in again.stderr


def test_results_are_named_the_same_whatever_lies_beside_the_picture(
    service: Service, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    draw(source / "a.png", 1)
    arguments = (source, "-o", out, "--url", service.url)
    assert run(*arguments).returncode == 0
    assert names_in(out) == {"a_x3.png"}
    for name in ("a.jpg", "a.jpeg", "a.PNG", "a.jpg.png"):
        draw(source / name, 2)
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "1 of 1 images upscaled" in done.stderr
    (source / "a.png").unlink()
    assert "0 of 0 images upscaled" in run(*arguments).stderr
    others = {"a.jpg_x3.png", "a.jpeg_x3.png", "a.PNG_x3.png", "a.jpg.png_x3.png"}
    assert names_in(out) == {"a_x3.png", *others}


def test_results_in_the_output_folder_are_not_enlarged(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 1)
    for paths, made in (([picture], 1), ([picture, tmp_path / "a_x3.png"], 0), ([tmp_path], 0)):
        done = run(*paths, "-o", tmp_path, "--url", service.url)
        assert done.returncode == 0, done.stderr
        assert f"{made} of {made} images upscaled" in done.stderr
    assert names_in(tmp_path) == {"a.png", "a_x3.png"}


def test_odd_names_and_links_are_made_or_named(service: Service, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for seed, name in enumerate(
        (b"two words.png", b"[red]x[1].png", b"caf\xe9.png", b"new\nline.png")
    ):
        draw(source / os.fsdecode(name), seed)
    (source / "folder.png").mkdir()
    (source / "link.png").symlink_to("two words.png")
    (source / "nowhere.png").symlink_to("missing")
    (source / "linked").symlink_to(tmp_path)
    os.mkfifo(source / "pipe.png")
    done = run(source, "-o", out, "--url", service.url)
    assert done.returncode == 1
    assert "4 of 5 images upscaled" in done.stderr
    assert "nowhere.png: No such file or directory" in done.stderr
    assert "linked: skipped, a link to a folder" in done.stderr
    assert "pipe.png: skipped" in done.stderr
    results = {b"link_x3.png", b"[red]x[1]_x3.png", b"caf\xe9_x3.png", b"new\nline_x3.png"}
    assert {os.fsencode(name) for name in names_in(out)} == results


def test_bad_names_are_told_legibly(service: Service, tmp_path: Path) -> None:
    name = os.fsdecode(b"[bold]caf\xe9\x1b[31m.png")
    (tmp_path / name).write_bytes(b"no picture")
    done = run(tmp_path / name, "-o", tmp_path / "out", "--url", service.url)
    assert done.returncode == 1
    assert f"{tmp_path}/[bold]caf\\xe9\\x1b[31m.png: " in done.stderr


def test_upload_is_skipped_where_the_result_exists(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 11)
    assert run(picture, "-o", tmp_path / "one", "--url", service.url).returncode == 0
    posts = service.log.count("POST /api/enhance")
    assert run(picture, "-o", tmp_path / "two", "--url", service.url).returncode == 0
    assert service.log.count("POST /api/enhance") == posts
    one, two = ((tmp_path / name / "a_x3.png").read_bytes() for name in ("one", "two"))
    assert one == two


def test_local_result_has_the_bytes_of_the_services(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 12)
    assert run(picture, "-o", tmp_path / "remote", "--url", service.url).returncode == 0
    local = run(picture, "-o", tmp_path / "local", "--local")
    assert local.returncode == 0, local.stderr
    remote = (tmp_path / "remote" / "a_x3.png").read_bytes()
    assert (tmp_path / "local" / "a_x3.png").read_bytes() == remote


def test_options_are_those_of_the_service(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 17)
    options = ("--format", "webp", "--scale", "2")
    for name, where in (("remote", ("--url", service.url)), ("local", ("--local",))):
        done = run(picture, "-o", tmp_path / name, *where, *options)
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / name / "a.png_x2.webp") as result:
            assert (result.format, result.size) == ("WEBP", (96, 96))
    assert run(picture, "--format", "gif").returncode == 2


@pytest.mark.parametrize("where", ["remote", "local"])
def test_bad_picture_fails_alone(service: Service, tmp_path: Path, where: str) -> None:
    draw(tmp_path / "in" / "good.png", 13)
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    options = ("--local",) if where == "local" else ("--url", service.url)
    done = run(tmp_path / "in", "-o", tmp_path / "out", *options)
    assert done.returncode == 1
    assert "bad.png" in done.stderr
    assert "PNG, JPEG" in " ".join(done.stderr.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good_x3.png"]


def test_no_result_overwrites_another(tmp_path: Path) -> None:
    first, second = (draw(tmp_path / name / "photo.png", 20) for name in "ab")
    done = run(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "2 of the images would have the same result" in done.stderr
    assert run(first, second, "-o", tmp_path / "out").returncode == 2
    once = run(first, first, tmp_path / "a", "-o", tmp_path / "out", "--local")
    assert "1 of 1 images upscaled" in once.stderr


def test_wrong_arguments_end_with_2(tmp_path: Path) -> None:
    picture = draw(tmp_path / "in" / "a.png", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    (tmp_path / "file").write_text("")
    for arguments, words in (
        ([tmp_path / "missing.png"], "does not exist"),
        ([picture, "--parallel", "0"], "--parallel"),
        ([picture, tmp_path / "empty"], "contains no image"),
        ([picture, "-o", tmp_path / "file"], "it is not a folder"),
        ([picture, "-o", tmp_path / "file" / "deep"], "cannot write results"),
        ([picture, "--url", "localhost:7860"], "looks like http://localhost:7860"),
        ([picture, "--url", "//localhost:7860"], "looks like http://localhost:7860"),
        ([picture, "--url", "http://"], "not the address"),
        ([picture, "--url", "http://localhost:78600"], "not the address"),
        ([picture, "--format", "gif"], "'avif'"),
        ([picture, "--nothing"], "--nothing"),
        (["-"], "add -o -"),
        (["-", picture, "-o", "-"], "takes one image"),
        ([tmp_path / "in", "-o", "-"], "not a folder"),
        ([tmp_path / "missing.png", "-o", "-"], "does not exist"),
        ([""], "a path is empty"),
        ([picture, "-o", ""], "a path is empty"),
    ):
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr


@pytest.mark.parametrize("columns", ["20", "100"])
def test_help_has_choices_exit_codes_and_the_key(columns: str) -> None:
    done = run("--help", COLUMNS=columns)
    assert done.returncode == 0
    text = " ".join(done.stdout.split())
    for words in ("[png|webp|jpeg|jpg|avif]", "[1|2|3|4]", "SR_API_KEY", "exit codes: 0 ", " 130 "):
        assert words in text


def test_pipe_takes_one_picture_and_gives_its_result(service: Service, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 1)
    assert run(picture, "-o", tmp_path / "out", "--url", service.url).returncode == 0
    expected = (tmp_path / "out" / "a_x3.png").read_bytes()
    for source in ("-", picture):
        for place in (("--url", service.url), ("--local",)):
            done = run_in_pipe(picture.read_bytes(), source, "-o", "-", *place)
            assert (done.returncode, done.stderr) == (0, b"")
            assert done.stdout == expected


def test_pipe_says_what_fails_and_gives_nothing(service: Service, tmp_path: Path) -> None:
    for place in (("--url", service.url), ("--local",)):
        done = run_in_pipe(b"no picture", "-", "-o", "-", *place)
        assert (done.returncode, done.stdout) == (1, b"")
        assert b"standard input: " in done.stderr
    picture = draw(tmp_path / "a.png", 1)
    # Its reader has gone.
    script = '"$@" | true'
    arguments = command(picture, "-o", "-", "--url", service.url)
    done = subprocess.run(["bash", "-c", script, "bash", *arguments], capture_output=True)
    assert b"Traceback" not in done.stderr


def test_pipe_may_be_a_socket(tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(picture.read_bytes())
        ours.shutdown(socket.SHUT_WR)
        arguments = command("-", "-o", "-", "--local")
        done = subprocess.run(
            arguments, stdin=theirs.fileno(), capture_output=True, timeout=WAIT_SECONDS, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
def test_closed_pipe_is_a_wrong_argument(closed: str) -> None:
    arguments = command("-", "-o", "-", "--local")
    script = ["bash", "-c", f'"$@" {closed}', "bash", *arguments]
    done = subprocess.run(script, capture_output=True, timeout=WAIT_SECONDS, check=False)
    assert done.returncode == 2
    assert b"is closed" in done.stderr


def test_interrupt_while_nobody_reads_the_result_ends_with_130(tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 1)
    # Larger than a pipe takes.
    arguments = command(picture, "-o", "-", "--local", "--width", "3000")
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.peek(1)  # type: ignore[attr-defined]
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_SECONDS) == 130
        assert process.stderr.read() == b"interrupted\n"


def run_in_pipe(content: bytes, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(*arguments),
        input=content,
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
    )


def test_full_disk_ends_the_run_and_leaves_no_half_file(service: Service, tmp_path: Path) -> None:
    for seed in range(3):
        draw(tmp_path / "in" / f"{seed}.png", seed, side=200)
    out = tmp_path / "out"
    out.mkdir()
    arguments = command(tmp_path / "in", "-o", out, "--url", service.url, "--parallel", 1)
    mount = f"mount -t tmpfs -o size=64k tmpfs {out}"
    script = f'{mount} && "$@"; code=$?; ls -A {out}; umount {out}; exit $code'
    done = subprocess.run(
        [*unshare_mounts(), "sh", "-c", script, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "No space left on device" in done.stderr
    assert "0 of 3 images upscaled" in done.stderr
    assert done.stdout == ""


def test_interrupted_local_run_ends_within_a_tile(tmp_path: Path) -> None:
    noise = np.random.default_rng(15).integers(0, 256, (1000, 1000, 3), np.uint8)
    draw(tmp_path / "in" / "a.png", 14)
    Image.fromarray(noise).save(tmp_path / "in" / "large.png")
    arguments = (tmp_path / "in", "-o", tmp_path / "out", "--local")
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "out" / "a_x3.png").exists)
    # As `timeout` does: to the process, then to its group.
    process.send_signal(signal.SIGTERM)
    assert process.stderr
    assert "stopping" in process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    _, output = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130, output
    assert "1 of 2 images upscaled" in output
    assert "run the same command to resume" in output
    assert names_in(tmp_path / "out") == {"a_x3.png"}


def test_interrupted_run_withdraws_its_job_and_goes_on_later(
    service: Service, tmp_path: Path
) -> None:
    draw(tmp_path / "in" / "small.png", 14)
    noise = np.random.default_rng(15).integers(0, 256, (90, 90, 3), np.uint8)
    Image.fromarray(noise).resize((1800, 1800)).save(tmp_path / "in" / "large.jpg")
    arguments = (tmp_path / "in", "-o", tmp_path / "out", "--url", service.url)
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True)
    wait_until((tmp_path / "out" / "small_x3.png").exists)
    wait_until(lambda: " 202 " in service.log)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130, output
    assert "run the same command to resume" in output
    wait_until(lambda: not loopback.get(f"{service.url}/api/stats").json()["queue_pixels"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["small_x3.png"]


def test_key_goes_to_the_api_and_nowhere_else(tmp_path: Path) -> None:
    key = make_key()
    keys = tmp_path / "keys"
    keys.write_text(f"anna:{hash_key(key)}\n")
    picture = draw(tmp_path / "a.png", 1)
    with run_light_service(tmp_path / "service", api_keys_file=keys) as service:
        arguments = command(picture, "-o", tmp_path / "out", "--url", service.url)
        for sent, code in (("", 1), (key, 0), (key, 0)):
            done = subprocess.run(
                [*arguments, "--overwrite"],
                env={**os.environ, "SR_API_KEY": sent},
                capture_output=True,
                text=True,
                timeout=WAIT_SECONDS,
                check=False,
            )
            assert done.returncode == code, done.stderr
            assert ("Authorization: Bearer KEY" in done.stderr) == (code == 1)
            assert ("SR_API_KEY" in done.stderr) == (code == 1)
        # The third time from /cache/, which needs no key.
        assert "key=anna" in service.log
        fetched = [line for line in service.log.splitlines() if "GET /cache/" in line]
        assert fetched
        assert not [line for line in fetched if "key=" in line]
