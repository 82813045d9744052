"""Who owns a running trial, and when another process may take it over; no clock of another machine is ever read."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import killing
import pytest
from clock import Clock

from nas.study import HEARTBEAT_SECONDS, STALE_SECONDS, ownership
from nas.study.ownership import Staleness, owner_attrs, owner_name, process_token

PROC = os.path.exists("/proc/self/ns/pid")  # noqa: PTH110  a link that is no path
needs_proc = pytest.mark.skipif(not PROC, reason="the system does not tell boot id and pid namespace")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def staleness(clock):
    return Staleness(clock=clock)


def token(**changes):
    """This process's token with some of its parts changed."""
    names = ("host", "boot", "namespace", "pid", "start", "random")
    parts = dict(zip(names, process_token().split("/"), strict=True))
    return "/".join((parts | changes).values())


def attrs(owner, beat=0):
    return {"owner": owner, "heartbeat": beat}


def is_taken_over_only_when_silent(staleness, clock, owner):
    """Whether an owner is waited for, as long as its beat moves, and gone when it has not for `STALE_SECONDS`."""
    clock.now = 1000.0
    for beat in range(5):
        assert staleness.seconds_left(7, attrs(owner, beat)) == STALE_SECONDS
        clock.now += STALE_SECONDS - 1
        assert staleness.seconds_left(7, attrs(owner, beat)) == pytest.approx(1)
    clock.now += 1
    return staleness.seconds_left(7, attrs(owner, 4)) == 0


def test_a_beat_leaves_time_for_several(staleness, clock):
    assert 4 * HEARTBEAT_SECONDS < STALE_SECONDS
    assert owner_attrs() == attrs(process_token())


@needs_proc
def test_a_dead_process_of_this_machine_is_gone_at_once(staleness, dead_owner):
    assert dead_owner.split("/")[:3] == process_token().split("/")[:3]
    assert staleness.seconds_left(0, attrs(dead_owner)) == 0


@needs_proc
def test_a_killed_process_that_nobody_has_waited_for_is_gone_as_well(staleness):
    script = f"{killing.TOKEN}; print(token, flush=True); input()"
    command = [sys.executable, "-c", script, ownership.__file__]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    owner = child.stdout.readline().strip()
    assert staleness.seconds_left(0, attrs(owner)) == STALE_SECONDS
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert staleness.seconds_left(0, attrs(owner)) == 0
    child.communicate()
    assert staleness.seconds_left(0, attrs(owner)) == 0


@needs_proc
def test_the_same_pid_with_another_start_time_is_another_process(staleness):
    """In a container the first process has pid 1, and so has the one that is started after it."""
    assert staleness.seconds_left(0, attrs(token(start="1", random="other"))) == 0


def test_this_process_is_not_gone(staleness):
    assert staleness.seconds_left(0, attrs(process_token())) == STALE_SECONDS


def test_another_living_process_of_this_machine_is_not_gone(staleness):
    parent = os.getppid()
    owner = token(pid=str(parent), start=ownership._start_time(parent), random="other")
    assert staleness.seconds_left(0, attrs(owner)) == STALE_SECONDS


@pytest.mark.parametrize(
    "changes",
    [
        {"namespace": "pid:[1]", "pid": "999999999"},  # another container, whatever runs here under that pid
        {"namespace": "pid:[1]", "start": "1"},
        {"host": "another", "boot": "other", "pid": "1"},
        {"boot": "other"},  # this machine before it was started again, or a copy of its disk
        {"boot": "", "namespace": "", "pid": "999999999"},  # a system that does not tell
        {"pid": "none"},
    ],
)
def test_a_process_that_cannot_be_looked_at_is_known_by_its_beat_alone(staleness, clock, changes):
    assert is_taken_over_only_when_silent(staleness, clock, token(**changes))


@pytest.mark.parametrize("owner", ["", None, "a host:12", "a/b"])
def test_an_owner_of_no_form_is_known_by_its_beat_alone(staleness, clock, owner):
    """Such as none at all, of a process that died between starting a waiting trial and naming itself."""
    assert is_taken_over_only_when_silent(staleness, clock, owner)


def test_two_containers_of_one_host_name_do_not_take_each_others_trials(staleness):
    """They share the kernel's boot id and the host's name, and here even the pid and its start."""
    assert staleness.seconds_left(0, attrs(token(namespace="pid:[4026531999]"))) == STALE_SECONDS


@pytest.mark.parametrize("hours", [-3, 3])
def test_clocks_of_machines_are_never_compared(staleness, clock, monkeypatch, hours):
    """Nothing that an owner writes is a time, and the time of day is not looked at."""
    owner = token(host="another", boot="other")
    assert staleness.seconds_left(0, attrs(owner)) == STALE_SECONDS
    before = time.time
    monkeypatch.setattr(time, "time", lambda: before() + 3600 * hours)
    assert staleness.seconds_left(0, attrs(owner)) == STALE_SECONDS
    clock.now += STALE_SECONDS
    assert staleness.seconds_left(0, attrs(owner)) == 0
    assert {type(value) for value in owner_attrs().values()} == {str, int}


def test_trials_are_watched_one_by_one_and_a_new_owner_begins_anew(staleness, clock):
    one, two = token(host="one", boot="one"), token(host="two", boot="two")
    staleness.seconds_left(1, attrs(one))
    clock.now += 60
    staleness.seconds_left(2, attrs(one))
    clock.now += 30
    assert staleness.seconds_left(1, attrs(one)) == 0
    assert staleness.seconds_left(2, attrs(one)) == 60
    assert staleness.seconds_left(1, attrs(two)) == STALE_SECONDS


def test_a_forked_process_is_another_one(monkeypatch):
    ours = process_token()
    assert process_token() == ours
    monkeypatch.setattr(os, "getpid", os.getppid)
    assert process_token() != ours
    assert process_token().split("/")[3] == str(os.getppid())


def test_an_owner_has_a_name_for_people(dead_owner):
    host, _, _, pid, _, _ = process_token().split("/")
    assert owner_name(attrs(process_token())) == f"{host} (pid {pid})"
    assert owner_name({}) == owner_name(attrs("a:1")) == "an unknown process"
    assert killing.dead_owner() is dead_owner
