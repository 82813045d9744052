"""Calls in a thread of their own: what a signal does to whoever waits for one."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from nas.workers.cluster import Calls


class Lock:
    """A client library's lock: what raises while it is held leaves it taken."""

    def __init__(self):
        self.lock = threading.Lock()

    def call(self, seconds):
        assert self.lock.acquire(timeout=5)
        time.sleep(seconds)
        self.lock.release()
        return threading.current_thread()


def interrupted():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_a_signal_ends_the_wait_and_not_the_call():
    library, calls = Lock(), Calls()
    interrupted()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        calls(lambda: library.call(1.0))
    assert time.monotonic() - began < 0.9
    first, second = (calls(lambda: library.call(0)) for _ in range(2))
    assert first is second is not threading.main_thread()
    calls.end()
    first.join(5)
    assert not first.is_alive()


def test_what_a_call_raises_is_raised_where_it_is_waited_for():
    calls = Calls()
    with pytest.raises(ZeroDivisionError):
        calls(lambda: 1 // 0)
    assert calls(lambda: 2) == 2
    calls.end()
