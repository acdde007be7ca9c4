import pytest

from placement.errors import PlanError
from placement.plan import Planner
from placement.planners import KNOWN, planner


class Own:
    def __init__(self, layers: int = 1) -> None:
        self.layers = layers
        self.name = "own"

    def plan(self, problem):
        raise NotImplementedError


class NoPlanner:
    name = "none"


NOT_A_CLASS = 3


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_planner_can_be_made_and_bears_its_name(name):
    made = planner(name)
    assert isinstance(made, Planner)
    assert made.name == name


def test_own_planners_load_by_module_and_class_with_options():
    made = planner(f"{__name__}:Own", layers=3)
    assert (type(made), made.layers) == (Own, 3)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("petal", {}, r"no 'petal'; did you mean petals\? known are .*petals, separate, swarm, uniform"),
        ("zzz", {}, "no 'zzz'; known are .*petals, separate, swarm, uniform"),
        ("no_such_module:Own", {}, "cannot be loaded: No module named 'no_such_module'"),
        (f"{__name__}:Missing", {}, "cannot be loaded: .*'Missing'"),
        (":", {}, "cannot be loaded"),
        (f"{__name__}:NOT_A_CLASS", {}, "NOT_A_CLASS is no class"),
        (f"{__name__}:NoPlanner", {}, r"no name or no plan\(problem\)"),
        ("swarm", {"stage": 3}, "unexpected keyword argument 'stage'; options that it takes: stages"),
        ("petals", {"x": 1}, "options that it takes: none"),
        ("swarm", {"stages": 0}, "stages is 0; it must be a whole number of at least 1"),
        ("swarm", {"stages": True}, "stages is True"),
        ("swarm", {"stages": 2.5}, "stages is 2.5"),
        ("separate", {"allow_over_profile": "yes"}, "allow_over_profile is 'yes'; it must be true or false"),
    ],
)
def test_what_cannot_be_made_says_why(name, options, says):
    with pytest.raises(PlanError, match=says):
        planner(name, **options)
