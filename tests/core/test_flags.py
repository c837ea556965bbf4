"""The flag bits and their descriptions."""

from cyclades.stages.core.flags import DESCRIPTIONS, Flag, count, decode, describe


def test_every_bit_has_one_description():
    assert set(DESCRIPTIONS) == set(Flag)
    assert len(set(DESCRIPTIONS.values())) == len(Flag)
    assert all(flag.value.bit_count() == 1 for flag in Flag)


def test_bits_are_read_and_counted():
    value = int(Flag.EDGE | Flag.BACKGROUND_UNCERTAIN)
    assert decode(value) == ["edge", "background_uncertain"]
    assert describe(value) == [DESCRIPTIONS[Flag.EDGE], DESCRIPTIONS[Flag.BACKGROUND_UNCERTAIN]]
    assert decode(0) == []
    assert count([value, 1, 0])["edge"] == 2
