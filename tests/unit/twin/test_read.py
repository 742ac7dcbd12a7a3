"""SCENARIO.toml: every key, every way to get one wrong."""

import pytest

from lorapack.errors import Infeasible, InputError
from lorapack.twin.arrivals import Diurnal, Gamma, OnOff, Piecewise, Poisson, Weibull
from lorapack.twin.lengths import Constant, Empirical, Lognormal, OfProfile
from lorapack.twin.read import read_fleet_or_scenario, read_scenario
from lorapack.twin.run import run

FULL = """
profile = "llama-3.1-8b/h100-64gb/vllm-0.8.5"
duration_s = 120
warmup_s = 20.5
judge_until_s = 100
seed = 3
max_in_flight = 500
warm = true

[engine]
rule_set = "vllm-0.33"
block_size = 32
max_loras = 2
max_lora_rank = 32
max_cpu_loras = 3
max_num_seqs = 64
max_num_batched_tokens = 512
max_model_len = 2048
kv_cache_tokens = 65_536
gpu_memory_utilization = 0.8
long_prefill_token_threshold = 128

[arrivals]
kind = "gamma"
cv = 2

[lengths]
kind = "constant"
prompt_tokens = 100
output_tokens = 50

[[adapter]]
adapter = "a"
rank = 16
rate_rps = 0.5

[[adapter]]
adapter = "b"
rank = 8
rate_rps = 0.25
"""

SHORT = """
duration_s = 60
[engine]
kv_cache_tokens = 65_536
[[adapter]]
adapter = "a"
rank = 16
rate_rps = 0.5
"""


@pytest.fixture
def write(tmp_path):
    def writer(text, name="scenario.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return writer


def test_every_key_arrives(write):
    scenario = read_scenario(write(FULL))
    engine = scenario.engine
    assert engine.rule_set == "vllm-0.33"
    assert (engine.block_size, engine.max_loras, engine.max_lora_rank) == (32, 2, 32)
    assert (engine.max_cpu_loras, engine.max_num_seqs) == (3, 64)
    assert (engine.max_num_batched_tokens, engine.max_model_len) == (512, 2048)
    assert (engine.kv_cache_tokens, engine.gpu_memory_utilization) == (65_536, 0.8)
    assert engine.long_prefill_token_threshold == 128
    assert (scenario.duration_s, scenario.warmup_s, scenario.judge_until_s) == (120, 20.5, 100)
    assert (scenario.seed, scenario.max_in_flight, scenario.warm) == (3, 500, True)
    assert scenario.arrivals == Gamma(cv=2)
    assert scenario.lengths == Constant(100, 50)
    assert [adapter.rank for adapter in scenario.fleet] == [16, 8]
    assert run(scenario).completed > 0


def test_what_is_left_out_is_the_default(write):
    scenario = read_scenario(write(SHORT))
    assert scenario.profile.name == "llama-3.1-8b/h100-64gb/vllm-0.8.5"
    assert (scenario.seed, scenario.warmup_s, scenario.max_in_flight) == (0, 0.0, None)
    assert scenario.arrivals is scenario.lengths is scenario.trace is None


def test_overrides_win_and_none_overrides_nothing(write):
    scenario = read_scenario(write(FULL), {"seed": 9, "max_loras": None, "duration_s": 30.0})
    assert (scenario.seed, scenario.max_loras, scenario.duration_s) == (9, 2, 30.0)


@pytest.mark.parametrize(
    ("table", "law"),
    [
        ('kind = "poisson"', Poisson()),
        ('kind = "gamma"', Gamma()),
        ('kind = "weibull"\ncv = 0.5', Weibull(0.5)),
        ('kind = "on-off"\non_s = 2\noff_s = 2', OnOff(2.0, 2.0)),
        ('kind = "diurnal"\namplitude = 0.5', Diurnal(0.5)),
        ('kind = "diurnal"\namplitude = 0.5\nperiod_s = 60\nphase = 0.25', Diurnal(0.5, 60, 0.25)),
        (
            'kind = "piecewise"\nstarts_s = [0, 30]\nfactors = [1, 2.5]',
            Piecewise((0.0, 30.0), (1.0, 2.5)),
        ),
    ],
)
def test_every_kind_of_arrivals_is_read_and_runs(write, table, law):
    scenario = read_scenario(write(f"{SHORT}\n[arrivals]\n{table}\n"))
    assert scenario.arrivals == law
    assert run(scenario).offered > 0


@pytest.mark.parametrize(
    ("table", "law"),
    [
        ('kind = "profile"', OfProfile()),
        ('kind = "constant"', Constant()),
        ('kind = "lognormal"\nprompt_sigma = 1\noutput_sigma = 0.5', Lognormal(1.0, 0.5)),
        (
            'kind = "lognormal"\nprompt_sigma = 1\noutput_sigma = 0.5\ncorrelation = -0.3\n'
            "prompt_tokens = 90\noutput_tokens = 30",
            Lognormal(1.0, 0.5, -0.3, 90, 30),
        ),
    ],
)
def test_every_kind_of_lengths_is_read_and_runs(write, table, law):
    scenario = read_scenario(write(f"{SHORT}\n[lengths]\n{table}\n"))
    assert scenario.lengths == law
    assert run(scenario).offered > 0


@pytest.mark.parametrize(
    "table",
    [
        "prompt_tokens = [10, 500]\noutput_tokens = [50, 60]",
        "prompt_tokens = [10, 500]\noutput_tokens = [50, 60]\nweights = [3, 1]",
        "prompt_tokens = [10, 500]\noutput_tokens = [50]\njoint = false",
        "prompt_tokens = [10, 500]\nprompt_weights = [1, 3]\noutput_tokens = [50, 60]",
        'trace = "trace.csv"',
        'trace = "trace.csv"\njoint = false',
    ],
)
def test_empirical_lengths_are_rows_histograms_or_a_trace_s_columns(write, table):
    write("arrival_s,adapter,prompt_tokens,output_tokens\n0,a,10,50\n1,a,500,60\n", "trace.csv")
    scenario = read_scenario(write(f'{SHORT}\n[lengths]\nkind = "empirical"\n{table}\n'))
    assert isinstance(scenario.lengths, Empirical)
    assert set(scenario.lengths.prompt_tokens) == {10, 500}
    assert run(scenario).offered > 0


def test_paths_are_seen_from_the_file_s_folder(write):
    write("adapter,rank,rate_rps\nx,8,1\n", "fleet.csv")
    scenario = read_scenario(write('fleet = "fleet.csv"\nduration_s = 9\n'))
    assert [adapter.adapter for adapter in scenario.fleet] == ["x"]


def test_with_a_trace_rates_may_be_left_out_and_the_run_ends_by_itself(write):
    write("arrival_s,adapter,prompt_tokens,output_tokens\n0,a,10,50\n1,a,500,60\n", "trace.csv")
    text = '[arrivals]\ntrace = "trace.csv"\n[[adapter]]\nadapter = "a"\nrank = 8\n'
    scenario = read_scenario(write(text))
    assert scenario.duration_s is None
    assert run(scenario).completed == 2


def test_a_toml_of_adapters_alone_is_a_fleet(write):
    scenario = read_fleet_or_scenario(write('[[adapter]]\nadapter = "a"\nrank = 8\nrate_rps = 1\n'))
    assert len(scenario.fleet) == 1


@pytest.mark.parametrize(
    ("old", "new", "place", "mend"),
    [
        ("seed = 3", "sed = 3", "top level sed", "seed"),
        ("seed = 3", "max_num_seqs = 3", "top level max_num_seqs", "[engine]"),
        ("seed = 3", "seed = -1", "top level seed", "at least 0"),
        ("seed = 3", 'seed = "x"', "top level seed", "whole number"),
        ("duration_s = 120", "duration_s = nan", "top level duration_s", "finite"),
        ("duration_s = 120", "duration = 120", "top level duration", "duration_s"),
        ("duration_s = 120", "duration_s = 10", "warmup_s", "less than duration_s"),
        ("warm = true", "warm = 1", "top level warm", "true or false"),
        ("max_loras = 2", "max_lora = 2", "[engine]", "max_loras"),
        ("max_loras = 2", "max_loras = 0", "max_loras", "1 or more"),
        ("max_loras = 2", "max_loras = 2.5", "[engine] max_loras", "whole number"),
        ("max_cpu_loras = 3", "max_cpu_loras = 1", "max_cpu_loras", "at least max_loras"),
        ("65_536", "32", "kv_cache_tokens", "at least 64"),
        ('"vllm-0.33"', '"vllm-0.34"', "rule_set", "vllm-0.33"),
        ('"gamma"', '"gama"', "[arrivals] kind", "gamma"),
        ("cv = 2", "vc = 2", "[arrivals]", "cv"),
        ("cv = 2", "cv = -2", "[arrivals] cv", "0.01"),
        ('"constant"', '"constnt"', "[lengths] kind", "constant"),
        ("prompt_tokens = 100", "prompt = 100", "[lengths]", "prompt_tokens"),
        ("rate_rps = 0.5", "rate = 0.5", "adapter[0] rate", "rate_rps"),
        ("rate_rps = 0.5", "rate_rps = -1", "adapter[0] rate_rps", "rate"),
        ("rank = 8", "rank = 1000", "adapter[1] rank", "512"),
        ('"b"', '"a"', "adapter[1] adapter", "once"),
    ],
)
def test_each_mistake_names_file_place_and_mend(write, old, new, place, mend):
    assert FULL.count(old) == 1
    path = write(FULL.replace(old, new))
    with pytest.raises(InputError) as caught:
        read_scenario(path)
    assert caught.value.file == str(path)
    assert place in caught.value.place
    assert mend in caught.value.mend or mend in str(caught.value.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("duration_s = ", "mend the TOML"),
        ("duration_s = 3", "give a fleet's path"),
        (f'fleet = "x.csv"\n{SHORT}', "give one of them"),
        ("adapter = 3", "[[adapter]]"),
        ('fleet = "absent.csv"', "absent.csv"),
        ("fleet = 3\nseed = 1", "text in quotes"),
        (f'profile = "lama"\n{SHORT}', "profile"),
        (f'{SHORT}\n[arrivals]\nkind = "trace"', "trace's path"),
        (f"{SHORT}\n[arrivals]\ncv = 2", "give `kind` first"),
        (f'{SHORT}\n[arrivals]\ntrace = "absent.csv"', "absent.csv"),
        (f"{SHORT}\n[arrivals]\ntrace = 3", "path in quotes"),
        (f'{SHORT}\n[arrivals]\nkind = "piecewise"\nstarts_s = [0]\nfactors = ["x"]', "factors[0]"),
        (f'{SHORT}\n[lengths]\nkind = "empirical"\nprompt_tokens = [1]', "output_tokens"),
        (f'{SHORT}\n[lengths]\nkind = "empirical"\nprompt_tokens = [0]\noutput_tokens=[1]', "1 or"),
        (f"{SHORT}\n[lengths]\nprompt_tokens = 3", "empirical"),
        (f"lengths = 3\n{SHORT}", "make it a table"),
    ],
)
def test_each_broken_file_is_an_input_error(write, text, message):
    path = write(text)
    with pytest.raises(InputError) as caught:
        read_scenario(path)
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_scenario(tmp_path / "absent.toml")


def test_an_engine_that_would_not_start_is_infeasible(write):
    text = SHORT.replace("kv_cache_tokens = 65_536", "max_loras = 4000")
    with pytest.raises(Infeasible):
        run(read_scenario(write(text)))
