"""Signals: a flag, looked at where nothing is half done; a second one ends at once."""

# ruff: noqa: PT012  a signal is sent and seen inside one block

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from nas.study import Interrupted, Interrupts, interrupts


def send(number=signal.SIGINT):
    os.kill(os.getpid(), number)


def test_a_signal_waits_for_a_safe_point():
    done = []
    with pytest.raises(Interrupted) as caught, Interrupts() as signals:
        signals.check()
        send()
        done.append("a transaction")  # goes on to its end
        signals.check()
        done.append("never")
    assert done == ["a transaction"]
    assert isinstance(caught.value, KeyboardInterrupt)
    assert (caught.value.exit_code, caught.value.reason) == (130, "interrupted by SIGINT")
    assert "the same call again goes on" in str(caught.value)


@pytest.mark.parametrize("number", Interrupts.SIGNALS)
def test_every_signal_has_its_exit_code(number):
    with pytest.raises(Interrupted) as caught, Interrupts() as signals:
        send(number)
        signals.check()
    assert caught.value.exit_code == 128 + number
    assert {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}[number] == caught.value.exit_code


def test_inside_allowed_a_signal_raises_at_once():
    began = time.monotonic()
    timer = threading.Timer(0.1, send)
    timer.start()
    with pytest.raises(Interrupted), Interrupts() as signals, signals.allowed():
        time.sleep(30)
    assert time.monotonic() - began < 5
    timer.join()


def test_a_signal_before_allowed_is_seen_at_its_beginning_and_after_it_waits_again():
    with pytest.raises(Interrupted), Interrupts() as signals:
        send()
        with signals.allowed():
            pytest.fail("it was to be seen at the beginning")
    with pytest.raises(Interrupted), Interrupts() as signals:
        with signals.allowed():
            pass
        send()
        done = True
        signals.check()
    assert done


def test_what_python_swallows_is_seen_when_waiting_is_over():
    """An exception of a handler is lost in a destructor and in a weakref's callback, as SQLAlchemy has them."""

    class Thing:
        pass

    with pytest.raises(Interrupted), Interrupts() as signals, signals.allowed():
        thing = Thing()
        reference = weakref.ref(thing, lambda _: send())
        del thing  # "Exception ignored in"
        gc.collect()
        assert reference() is None


def test_a_signal_after_the_last_safe_point_is_not_lost():
    with pytest.raises(Interrupted), Interrupts():
        send()
    with pytest.raises(ValueError, match="the first"), Interrupts():
        send()
        raise ValueError("the first")


def test_a_signal_that_the_import_of_a_module_in_c_made_an_import_error_of():
    with pytest.raises(Interrupted), Interrupts() as signals, signals.allowed():
        try:
            send()
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("initialization of a module failed") from None


def test_of_two_around_each_other_the_inner_one_takes_the_signals():
    with pytest.raises(Interrupted), Interrupts() as outer:
        with Interrupts() as inner:
            assert Interrupts.active is inner
            inner.check()
        assert Interrupts.active is outer
        send()
        with Interrupts():  # seen at its beginning
            pytest.fail("the outer one has a signal")
    with pytest.raises(Interrupted), Interrupts() as outer, interrupts.interruptible():
        with pytest.raises(Interrupted), Interrupts() as inner:
            send()
            inner.check()
        outer.check()  # and the next signal would be the second
    assert Interrupts.active is None


def test_the_handlers_are_as_they_were_afterwards():
    """The library leaves its caller as it was."""
    before = {number: signal.getsignal(number) for number in Interrupts.SIGNALS}
    with Interrupts():
        assert all(signal.getsignal(number) != before[number] for number in before)
    with pytest.raises(Interrupted), Interrupts():
        send()
    assert {number: signal.getsignal(number) for number in before} == before


def test_what_is_ignored_stays_ignored():
    """nohup ignores SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as signals:
            send(signal.SIGHUP)
            signals.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with Interrupts() as signals, signals.allowed():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


SCRIPT = """
import runpy, sys, time
module = runpy.run_path(sys.argv[2])  # alone: without torch it starts at once
Interrupted, Interrupts = module["Interrupted"], module["Interrupts"]
try:
    with Interrupts() as interrupts:
        print("ready", flush=True)
        if sys.argv[1] == "waits":
            with interrupts.allowed():
                time.sleep(60)
        while True:  # a write that does not end
            time.sleep(0.01)
except Interrupted as error:
    print("at a safe point", flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["waits", "writes"])
def test_a_process_leaves_with_the_shells_code_and_a_second_signal_ends_it_at_once(number, where):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, where, interrupts.__file__], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    if where == "writes":
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert out == ("at a safe point\n" if where == "waits" else "")
