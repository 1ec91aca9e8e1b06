"""One replica's turns: whoever has one gives it back, however its request ends."""

from __future__ import annotations

import asyncio

from clary.inference.fleet import Replica
from clary.state.routing import RoutedReplica


def test_a_turn_that_comes_as_its_request_is_out_of_time_goes_to_the_next_one() -> None:
    async def run() -> None:
        replica = Replica(RoutedReplica("host", "/nowhere", "AllTraffic/host"))
        replica.note_terms(b"1/8")
        assert await replica.turn(10)
        late = asyncio.ensure_future(replica.turn(0))
        await asyncio.sleep(0)
        replica.leave()  # gives the turn to the one whose time is over in the same moment
        assert await late is False
        assert replica.outstanding == 0
        assert await asyncio.wait_for(replica.turn(10), 1)

    asyncio.run(run())
