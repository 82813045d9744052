"""The golden digest: the bits of a tiny search and of short full runs, as recorded for this kind of machine.

On a machine that golden.json does not know, the same bits must come twice.
"""

from __future__ import annotations

import json

import golden


def test_a_search_and_full_runs_come_to_the_recorded_bits():
    found = golden.digest()
    recorded = json.loads(golden.RECORD.read_text(encoding="utf-8")).get(golden.machine())
    assert found == (recorded or golden.digest())
