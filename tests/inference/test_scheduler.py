"""Blocks are shared by rows that begin alike, and none is lost whatever comes and goes."""

import random

import pytest

from fugaku_jax.inference.blocks import BlockPool
from fugaku_jax.inference.continuation import Continuation, Options
from fugaku_jax.inference.scheduler import EngineFull, Scheduler, Ticket

SIZE, POSITIONS = 4, 40


def ticket(tokenizer, prompt, most=4):
    return Ticket(Continuation(tokenizer, prompt, Options(most, temperature=0)))


class Written:
    """What a cache would hold, and what every row must find there."""

    def __init__(self, blocks):
        self.held, self.copies = {}, 0
        self.pool = BlockPool(blocks, SIZE)

    def run(self, pieces):
        """Copy first, write then, and look at last, as a pass does."""
        for source, target in (piece.copied for piece in pieces if piece.copied):
            self.copies += 1
            for place in range(SIZE):
                self.held[target, place] = self.held[source, place]
        for piece in pieces:
            self.write(piece.row, piece.places, piece.row.part(range(piece.row.length)))
        for piece in pieces:
            for place in range(piece.places.stop):
                key = piece.row.blocks[place // SIZE], place % SIZE
                assert self.held[key] == tuple(piece.row.part(range(place + 1)))
            assert 0 not in piece.row.blocks

    def write(self, row, places, tokens):
        for place in places:
            self.held[row.blocks[place // SIZE], place % SIZE] = tuple(tokens[: place + 1])


@pytest.mark.parametrize("blocks", [12, 30, 200])
def test_every_row_finds_all_before_it_whatever_comes_goes_and_is_evicted(tokenizer, blocks):
    draw, written = random.Random(blocks), Written(blocks)
    scheduler = Scheduler(written.pool, slots=5, queue=8, positions=POSITIONS)
    tickets, ended, refused = [], 0, 0
    for _ in range(600):
        if draw.random() < 0.5:
            # Few tokens, so that many prompts begin alike.
            prompt = [draw.choice((11, 12)) for _ in range(draw.randrange(1, 25))]
            if draw.random() < 0.5:
                prompt = [13] * 9 + prompt
            tickets.append(ticket(tokenizer, prompt, draw.randrange(1, 9)))
            try:
                scheduler.submit(tickets[-1])
            except EngineFull:
                refused += 1
        if tickets and draw.random() < 0.1:
            scheduler.cancel(draw.choice(tickets))
        pieces = scheduler.next_pass(most=10)
        assert sum(len(each.places) for each in pieces) <= 10 + 5
        written.run(pieces)
        for piece in pieces:
            if piece.is_last:
                row, is_new = piece.row, not piece.row.continuation.tokens
                tokens = [draw.choice((11, 12)) for _ in range(1 if is_new else 3)]
                text = row.part(range(row.length)) + tokens
                end = min(len(text) - 1, scheduler.limit(row))
                written.write(row, range(piece.places.stop, end), text)
                news = scheduler.add(row, tokens, [-1.0] * len(tokens))
                ended += news is not None and news.finish is not None
        used = {block for row in scheduler.rows for block in row.blocks}
        assert written.pool.free == blocks - len(used)
    assert ended > 50
    assert written.copies > 50
    assert refused > 0 or blocks > 12
    for each in tickets:
        scheduler.cancel(each)
    assert written.pool.free == blocks
    assert (scheduler.rows, len(scheduler.waiting)) == ([], 0)


def test_a_common_beginning_is_run_once_even_in_the_same_pass(tokenizer):
    scheduler = Scheduler(BlockPool(60, SIZE), slots=4, queue=9, positions=POSITIONS)
    rows = [ticket(tokenizer, [*range(10, 28), 40 + n]) for n in range(4)]
    for row in rows:
        scheduler.submit(row)
    pieces = scheduler.next_pass(most=100)
    assert [piece.places for piece in pieces] == [range(19)] + [range(16, 19)] * 3
    assert len({row.blocks[3] for row in rows}) == 1
    assert len({row.blocks[4] for row in rows}) == 4


def test_what_a_later_prompt_has_in_common_within_a_block_is_copied(tokenizer):
    scheduler = Scheduler(BlockPool(60, SIZE), slots=4, queue=9, positions=POSITIONS)
    rows = [ticket(tokenizer, [*range(10, 16), *own]) for own in ([20, 21, 22], [30] * 5, [40])]
    for row in rows[:2]:
        scheduler.submit(row)
    # What is made in the same pass cannot be copied in it.
    pieces = scheduler.next_pass(most=100)
    assert [(piece.places, piece.copied) for piece in pieces] == [
        (range(9), None),
        (range(4, 11), None),
    ]
    for row in rows[:2]:
        scheduler.add(row, [50], [0.0])
    scheduler.submit(rows[2])
    piece = scheduler.next_pass(most=100)[-1]
    assert (piece.row, piece.places) == (rows[2], range(6, 7))
    source, target = piece.copied
    assert source in (rows[0].blocks[1], rows[1].blocks[1])
    assert target == rows[2].blocks[1] != source


def test_a_prompt_that_was_there_before_runs_its_last_token_alone(tokenizer):
    scheduler = Scheduler(BlockPool(60, SIZE), slots=4, queue=9, positions=POSITIONS)
    for places in (range(8), range(7, 8)):
        row = ticket(tokenizer, [*range(10, 18)])
        scheduler.submit(row)
        [piece] = scheduler.next_pass(most=100)
        assert piece.places == places
        scheduler.cancel(row)


def test_a_long_prompt_does_not_hold_up_a_row_that_goes_on(tokenizer):
    scheduler = Scheduler(BlockPool(60, SIZE), slots=4, queue=9, positions=POSITIONS)
    short, long = ticket(tokenizer, [11]), ticket(tokenizer, [12] * 30)
    scheduler.submit(short)
    scheduler.add(scheduler.next_pass(most=8)[0].row, [11], [0.0])
    scheduler.submit(long)
    for start in (0, 8, 16):
        pieces = scheduler.next_pass(most=8)
        assert [(piece.row, len(piece.places)) for piece in pieces] == [(short, 1), (long, 8)]
        assert pieces[1].places.start == start
        assert not pieces[1].is_last
        scheduler.add(short, [11], [0.0])


def test_what_was_said_need_not_be_run_again_where_it_becomes_a_prompt(tokenizer):
    scheduler = Scheduler(BlockPool(60, SIZE), slots=4, queue=9, positions=POSITIONS)
    first = ticket(tokenizer, [11] * 5, 8)
    scheduler.submit(first)
    scheduler.next_pass(most=100)
    scheduler.add(first, list(range(20, 28)), [0.0] * 8)
    assert first.continuation.finish == "length"
    after = ticket(tokenizer, [*[11] * 5, *range(20, 28), 30])
    scheduler.submit(after)
    [piece] = scheduler.next_pass(most=100)
    assert piece.places == range(12, 14)


def test_one_that_needs_more_blocks_than_are_free_waits_for_them(tokenizer):
    scheduler = Scheduler(BlockPool(5, SIZE), slots=4, queue=2, positions=20)
    first, second = ticket(tokenizer, [11] * 9), ticket(tokenizer, [12] * 9)
    scheduler.submit(first)
    scheduler.submit(second)
    assert [piece.row for piece in scheduler.next_pass(most=100)] == [first]
    scheduler.cancel(first)
    scheduler.cancel(first)  # which is gone
    assert [piece.row for piece in scheduler.next_pass(most=100)] == [second]
    assert scheduler.add(first, [11], [0.0]) is None


def test_a_full_queue_is_refused(tokenizer):
    scheduler = Scheduler(BlockPool(60, SIZE), slots=4, queue=1, positions=20)
    scheduler.submit(ticket(tokenizer, [11]))
    with pytest.raises(EngineFull, match="1 requests wait already"):
        scheduler.submit(ticket(tokenizer, [11]))
