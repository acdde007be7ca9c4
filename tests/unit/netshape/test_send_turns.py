import asyncio

from shaped import run

from netshape.send_turns import TURN_S, SendTurns


def test_those_who_wait_have_their_turn_in_order_also_when_others_gave_up() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        turns = SendTurns.of(loop)
        assert SendTurns.of(loop) is turns
        now = loop.time()
        assert not turns.over(now)
        assert not turns.over(now + TURN_S / 2)
        assert turns.over(now + 2 * TURN_S)
        served: list[int] = []

        async def wait(number: int) -> None:
            await turns.next()
            served.append(number)

        tasks = [asyncio.create_task(wait(number)) for number in range(300)]
        await asyncio.sleep(0)
        for number in (0, 1, 7, 150, 299):
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert not turns.over(loop.time()), "a later turn of the loop begins anew"
        return served

    assert run(main) == [number for number in range(300) if number not in (0, 1, 7, 150, 299)]


def test_a_sender_that_sends_for_ever_leaves_others_their_turn() -> None:
    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        turns = SendTurns.of(loop)
        ticks = 0
        sent = [0, 0]

        async def send(sender: int) -> None:
            while ticks < 50:
                if turns.over(loop.time()):
                    await turns.next()
                sent[sender] += 1

        def tick() -> None:
            nonlocal ticks
            ticks += 1
            if ticks < 50:
                loop.call_soon(tick)

        tick()
        await asyncio.gather(send(0), send(1))
        return sent[0], sent[1]

    assert min(run(main)) > 0
