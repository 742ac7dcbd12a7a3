"""A SWEEP.toml as numbered scenarios."""

import pytest

from lorapack.errors import InputError
from lorapack.sweep import grid as grid_room
from lorapack.sweep.grid import Refused, Sweep

FLEET = """
[fleet]
n_adapters = 6
rates = "equal"
rate_rps = 0.1
"""


def sweep(text, **more):
    return Sweep.from_toml("duration_s = 60\n" + text, file="sweep.toml", **more)


def test_a_grid_takes_every_combination_the_last_key_fastest():
    grid = sweep('seed = [3, 4]\n[engine]\nmax_loras = [2, 4, 8]\n[design]\nkind = "grid"' + FLEET)
    points = [grid.point(i) for i in range(len(grid))]
    assert [(p["seed"], p["engine.max_loras"]) for p in points] == [
        (3, 2),
        (3, 4),
        (3, 8),
        (4, 2),
        (4, 4),
        (4, 8),
    ]
    assert [grid.scenario(i).seed for i in range(6)] == [3, 3, 3, 4, 4, 4]


def test_points_of_a_grid_share_their_draws():
    grid = sweep('[engine]\nmax_loras = [2, 4]\n[design]\nkind = "grid"' + FLEET)
    first, second = grid.scenario(0), grid.scenario(1)
    assert first.fleet == second.fleet
    assert first.seed == second.seed


def test_seeds_repeat_a_point_with_the_same_fleet():
    sampled = sweep(
        '[engine]\nmax_loras = { from = 1, to = 6 }\n[design]\nkind = "sobol"\nn = 3\nseeds = 2'
        + FLEET.replace('"equal"', '"lognormal"')
    )
    assert len(sampled) == 6
    one, again, other = (sampled.scenario(i) for i in (0, 1, 2))
    assert one.fleet == again.fleet
    assert again.seed == one.seed + 1
    assert other.fleet != one.fleet


@pytest.mark.parametrize("kind", ["latin-hypercube", "sobol"])
def test_a_sampled_design_is_spread_evenly(kind):
    sampled = sweep(
        f'[engine]\nmax_loras = {{ from = 1, to = 400 }}\n[design]\nkind = "{kind}"\nn = 64' + FLEET
    )
    values = sorted(sampled.point(i)["engine.max_loras"] for i in range(64))
    assert all(abs(value - (i + 0.5) * 400 / 64) < 15 for i, value in enumerate(values))


def test_any_scenario_is_a_function_of_its_number():
    text = '[engine]\nmax_loras = { from = 1, to = 6 }\n[design]\nkind = "sobol"\nn = 8' + FLEET
    forwards = [sweep(text).scenario(i) for i in range(8)]
    backwards = [sweep(text).scenario(i) for i in reversed(range(8))][::-1]
    assert [(s.fleet, s.seed, s.max_loras) for s in forwards] == [
        (s.fleet, s.seed, s.max_loras) for s in backwards
    ]


def test_load_sets_the_rates_by_what_the_gpu_can_do():
    text = '[engine]\nmax_loras = 6\n[design]\nkind = "grid"\n' + FLEET.replace(
        "rate_rps = 0.1", "load = [0.5, 1.0]"
    )
    half, full = (sweep(text).scenario(i).fleet.rate_rps for i in range(2))
    assert full == pytest.approx(2 * half)
    assert full > 1.0


def test_a_list_of_ranks_is_one_value_and_lists_of_them_are_several():
    text = '[design]\nkind = "grid"' + FLEET
    assert len(sweep(text + "ranks = [8, 16]")) == 1
    mixes = sweep(text + "ranks = [[8], [8, 16]]")
    assert len(mixes) == 2
    assert {a.rank for a in mixes.scenario(1).fleet} == {8, 16}


def test_an_engine_that_does_not_start_is_a_point_that_says_so():
    text = '[engine]\nmax_loras = 2000\n[design]\nkind = "grid"' + FLEET
    assert isinstance(sweep(text).scenario(0), Refused)
    fitted = sweep(text.replace('"grid"', '"grid"\nfit_memory = true')).scenario(0)
    assert 6 < fitted.engine.max_loras < 2000


def test_rows_of_adapters_may_vary_too():
    rows = """
[design]
kind = "grid"
[[adapter]]
adapter = "a"
rank = 8
rate_rps = [0.1, 0.2]
[[adapter]]
adapter = "b"
rank = 8
rate_rps = 0.3
"""
    assert [sweep(rows).scenario(i).fleet.rate_rps for i in range(2)] == pytest.approx([0.4, 0.5])


def test_the_training_sweep_is_built_in():
    training = Sweep.read("training")
    assert len(training) > 1000
    assert training.scenario(0).engine.max_loras >= 1


def test_the_identity_tells_sweeps_apart():
    text = '[engine]\nmax_loras = [2, 4]\n[design]\nkind = "grid"' + FLEET
    assert sweep(text).identity == sweep(text).identity
    assert sweep(text).identity != sweep(text.replace("[2, 4]", "[2, 8]")).identity
    assert sweep(text).identity != sweep(text, seed=1).identity


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (FLEET, "[design]"),
        ('[design]\nkind = "grids"' + FLEET, "[design] kind"),
        ('[design]\nkind = "sobol"' + FLEET, "[design] n"),
        ('[design]\nkind = "grid"\nn = 4' + FLEET, "[design] n"),
        (
            '[engine]\nmax_loras = { from = 1, to = 4 }\n[design]\nkind = "grid"' + FLEET,
            "engine.max_loras",
        ),
        ('[engine]\nmax_loras = []\n[design]\nkind = "grid"' + FLEET, "engine.max_loras"),
    ],
)
def test_a_bad_design_is_refused_when_it_is_read(text, place):
    with pytest.raises(InputError) as error:
        sweep(text)
    assert error.value.place == place


@pytest.mark.parametrize(
    ("fleet", "place"),
    [
        (FLEET.replace("rate_rps", "rate_rsp"), "[fleet]"),
        (FLEET + "load = 1.0", "[fleet]"),
        (FLEET.replace("rate_rps = 0.1", ""), "[fleet]"),
        (FLEET.replace('"equal"', '"zipfian"'), "[fleet] rates"),
        (FLEET + "ranks = [8, 1000]", "[fleet] ranks"),
        (FLEET + "groups = [0]", "[fleet] groups"),
        (FLEET + "group_span = 0.5", "[fleet] group_span"),
        (FLEET + 'gaps = "pareto"', "[fleet] gaps"),
        (FLEET + "[engine]\nmax_lora = 4", "[engine]"),
    ],
)
def test_a_bad_point_names_its_scenario(fleet, place):
    with pytest.raises(InputError) as error:
        sweep('[design]\nkind = "grid"' + fleet).scenario(0)
    assert error.value.place == f"scenario 0: {place}"


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError):
        Sweep.read(tmp_path / "none.toml")


def law(text, fleet):
    return sweep(text + '\n[design]\nkind = "latin-hypercube"\nn = 4\n[fleet]\n' + fleet)


def test_a_base_share_of_one_is_the_base_model_alone():
    alone = law(
        "[engine]\nmax_loras = 4",
        'n_adapters = 6\nrates = "equal"\ntotal_rate_rps = 2.0\nbase_share = 1.0\n'
        "spare_slots = [true, false]",
    )
    for i in range(4):
        scenario = alone.scenario(i)
        assert [adapter.is_base for adapter in scenario.fleet] == [True]
        assert scenario.fleet.rate_rps == pytest.approx(2.0)
        assert scenario.max_loras == (4 if alone.point(i)["fleet.spare_slots"] else 0)


def test_slots_are_no_more_than_adapters_where_none_are_to_spare():
    tight = law(
        "[engine]\nmax_loras = 9",
        'n_adapters = 6\nrates = "equal"\nrate_rps = 0.1\nspare_slots = false',
    )
    assert tight.scenario(0).max_loras == 6


def test_groups_may_have_rates_that_are_drawn():
    drawn = law(
        "",
        'n_adapters = 7\nrates = "groups"\nrate_rps = 0.1\n'
        "group_span = { from = 20.0, to = 200.0 }",
    )
    for i in range(4):
        rates = [adapter.rate_rps for adapter in drawn.scenario(i).fleet]
        assert len(set(rates)) == 3
        assert max(rates) / min(rates) <= drawn.point(i)["fleet.group_span"] * (1 + 1e-9)
        assert rates == [adapter.rate_rps for adapter in drawn._first_scenario(i).fleet]


def test_default_lengths_are_the_profiles_own():
    own = law(
        "",
        'n_adapters = 3\nrates = "equal"\nrate_rps = 0.1\nlengths = "default"\n'
        "prompt_tokens = 5000\nlength_spread = 1.0",
    )
    assert all(adapter.prompt_tokens is None for adapter in own.scenario(0).fleet)


def test_a_profile_that_says_otherwise_where_it_is_from_is_the_same_sweep(tmp_path):
    from lorapack.profile.profile import Profile

    text = Profile.load().to_toml()
    note = next(line for line in text.splitlines() if line.startswith("note"))
    weights = next(line for line in text.splitlines() if line.startswith("weights_ms"))
    identities = []
    for one in (
        text,
        text.replace(note, 'note = "measured again"'),
        text.replace(weights, "weights_ms = 99.0"),
    ):
        (tmp_path / "own.toml").write_text(one)
        design = '[design]\nkind = "grid"' + FLEET
        sweep_of = sweep(design, profile=str(tmp_path / "own.toml"))
        grid_room._load_profile.cache_clear()
        identities.append(sweep_of.identity)
    assert identities[0] == identities[1] != identities[2]
