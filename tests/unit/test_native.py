"""Compiling C: once for each source, compiler and processor, and what happens without a compiler."""

import logging
import os
from pathlib import Path

import pytest

from research import native
from research.sampling import stepping


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of compiled files; nothing is loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for function in (native.library, stepping.load):
        monkeypatch.setattr(function.__module__ + "." + function.__name__, function.__wrapped__)
    return tmp_path / "metapolicy"


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_the_reason_is_logged(cache, monkeypatch, caplog, compiler):
    monkeypatch.setenv("CC", compiler)
    with caplog.at_level(logging.WARNING):
        assert stepping.load() is None
    assert "Simulations are stepped from Python, which is slower: " in caplog.text
    assert compiler in caplog.text or compiler == "false"
    assert not cache.exists() or not list(cache.iterdir()), "nothing half done is left"


def test_without_a_home_directory_nothing_is_compiled(cache, monkeypatch, caplog):
    """A container may run under a number that names no user."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 2**31)
    assert stepping.load() is None
    assert "Simulations are stepped from Python, which is slower: " in caplog.text and "home" in caplog.text


def test_options_of_the_compiler_of_the_machine_do_not_loosen_arithmetic(cache, monkeypatch, tmp_path):
    """Compilers of some makers take liberties by default, with which NaN and rounding would be lost."""
    monkeypatch.setenv("CC", "cc -ffast-math")
    source = tmp_path / "fast.c"
    source.write_text("int is_fast(void) {\n#ifdef __FAST_MATH__\nreturn 1;\n#else\nreturn 0;\n#endif\n}")
    assert native.library(source, native.KERNEL, "").is_fast() == 0


def test_a_refused_source_is_logged_with_the_words_of_the_compiler(cache, tmp_path, caplog):
    source = tmp_path / "wrong.c"
    source.write_text("int answer(void) { return unknown; }")
    assert native.library(source, (), "Answers are computed in Python") is None
    assert "Answers are computed in Python, which is slower: " in caplog.text and "unknown" in caplog.text


def test_it_is_compiled_once(cache):
    assert stepping.load() is not None
    (made,) = cache.iterdir()
    before = made.stat()
    assert stepping.load() is not None
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [before.st_mtime_ns]


def test_other_options_and_other_processors_have_files_of_their_own(cache, tmp_path):
    source = tmp_path / "answer.c"
    source.write_text("int answer(void) { return NUMBER; }")
    made = [native.library(source, (f"-DNUMBER={n}",), "").answer() for n in (1, 2)]
    assert made == [1, 2]
    native.library(source, ("-DNUMBER=1", "-O1"), "")  # -O1 defines __OPTIMIZE__
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "byte"])
def test_a_damaged_library_is_compiled_again(cache, damage):
    """Loading a library that was cut ends the process with a bus error."""
    arguments = (Path(stepping.__file__).with_name("step.c"), (*native.KERNEL, "-DREAL=float", *stepping._OPTIONS))
    made = native.compiled(*arguments)
    whole = bytearray(made.read_bytes())
    damaged = {"cut": whole[: len(whole) // 2], "empty": b"", "byte": whole[:-1] + bytes([whole[-1] ^ 1])}[damage]
    made.write_bytes(damaged)
    again = native.compiled(*arguments)
    assert again.read_bytes() == whole
    assert [path.name for path in cache.iterdir()] == [again.name]
