"""What a run says while it goes on, for people who watch it."""

from medpipe.training.journal import in_words


def test_figures_are_told_in_words() -> None:
    facts = {
        "part": "held_out",
        "aupr": {"MA": 0.51234, "SE": None},
        "mean_dice": {"MA": 0.5},
        "pictures": 12,
    }
    assert in_words(facts) == "part held_out; aupr MA 0.512, SE -; mean dice MA 0.5; pictures 12"
