from evals.sample_ids import SampleIds


def test_an_id_that_comes_again_much_later_is_found() -> None:
    ids = SampleIds()
    for number in range(200_000):
        ids.add(str(number))
    ids.add("7")
    assert ids.repeated() == {hash("7")}


def test_ids_that_come_once_are_not() -> None:
    ids = SampleIds()
    assert ids.repeated() == set()
    for number in range(200_000):
        ids.add(str(number))
    assert ids.repeated() == set()


def test_of_very_many_only_some_are_named() -> None:
    ids = SampleIds()
    for number in range(5_000):
        ids.add(str(number))
        ids.add(str(number))
    assert len(ids.repeated()) == 1_000
