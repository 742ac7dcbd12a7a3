"""The page as text: complete, escaped, self-contained, the same bytes again."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorapack.errors import InputError
from lorapack.report import Sources, figures, page, read_sources, render
from lorapack.report.rooms import HEIGHT, WIDTH, room_of, squarified

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Tree(HTMLParser):
    """Elements, ids and references; complains when tags do not close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def parsed(html: str) -> Tree:
    tree = Tree()
    tree.feed(html)
    tree.close()
    assert tree.open == []
    assert tree.seen
    return tree


@pytest.fixture
def html(folder) -> str:
    return render(read_sources([folder]))


def test_every_part_is_there(html):
    tree = parsed(html)
    for words in ("2 GPUs serve 45 adapters", "verified", "1.43", "interactive", "round-robin"):
        assert words in tree.text
    assert {a["id"] for t, a in tree.seen if t == "section" and "id" in a} == {
        "rooms",
        "evidence",
        "memory",
        "savings",
        "maxpack",
        "fidelity",
    }


def test_every_figure_has_a_specification(html):
    tree = parsed(html)
    specs = json.loads(re.search(r'id="specs">(.*?)</script>', html, re.DOTALL)[1])
    drawn = {a["data-figure"] for _, a in tree.seen if "data-figure" in a}
    assert drawn == set(specs)
    assert len(drawn) == 6


def test_names_cannot_become_markup(html):
    tree = parsed(html)
    assert not [a for t, a in tree.seen if t == "img" or "onerror" in a]
    assert [t for t, _ in tree.seen].count("script") == 3
    assert "</script><script>alert(1)</script>" in tree.text


def test_the_page_may_ask_the_network_for_nothing(html):
    tree = parsed(html)
    (policy,) = [a["content"] for t, a in tree.seen if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    references = [a.get(k) for _, a in tree.seen for k in ("src", "href") if a.get(k)]
    assert references
    assert all(one.startswith(("#", "data:")) for one in references)


def test_links_within_the_page_lead_somewhere(html):
    tree = parsed(html)
    ids = [a["id"] for _, a in tree.seen if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in tree.seen:
        for name in ("href", "aria-labelledby"):
            target = attributes.get(name) or ""
            if name != "href" or target.startswith("#"):
                assert not target or target.lstrip("#") in ids


def test_what_scrolls_or_opens_can_be_reached_by_keyboard(html):
    tree = parsed(html)
    scrollers = [a for _, a in tree.seen if "scroll" in (a.get("class") or "").split()]
    assert scrollers
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrollers)
    assert all(int(a["tabindex"]) == 0 for _, a in tree.seen if "tabindex" in a)


def test_same_sources_same_bytes(folder):
    assert render(read_sources([folder])) == render(read_sources([folder]))


def test_the_page_is_small_enough(html):
    assert len(html.encode()) < page.LARGEST_BYTES / 2


def test_a_thousand_gpus_still_fit_on_a_page(plan):
    from dataclasses import replace

    gpus = tuple(replace(plan.gpus[0], gpu=f"gpu-{n}") for n in range(1000))
    html = render(Sources(plan=replace(plan, n_gpus=1000, gpus=gpus)))
    assert len(html.encode()) < page.LARGEST_BYTES
    assert "the rest are in plan.json" in html


def test_a_plan_alone_is_enough(plan):
    tree = parsed(render(Sources(plan=plan)))
    assert "gpu-1" in tree.text
    assert "Savings" not in tree.text


def test_a_plan_that_says_little_is_still_drawn(plan):
    from dataclasses import replace

    bare = replace(plan.gpus[0], memory={}, twin={}, predicted={}, seeds=(), margin=0.0)
    tree = parsed(render(Sources(plan=replace(plan, gpus=(bare,), cost_per_hour=None))))
    assert "gpu-0" in tree.text


def predicted(plan):
    """The same by prediction alone."""
    from dataclasses import replace

    told = {"served_fraction": 0.987, "ttft_p99_ms": 345.0, "throughput_tps": 8765.0}
    gpus = tuple(
        replace(gpu, twin={}, seeds=(), margin=0.0, failing_probability=None, predicted=told)
        for gpu in plan.gpus
    )
    return replace(plan, verified=False, gpus=gpus)


def test_a_predicted_plan_claims_no_simulation(plan):
    tree = parsed(render(Sources(plan=predicted(plan))))
    text = " ".join(tree.text.split())
    assert "by prediction alone: no GPU of it was simulated" in text
    assert "2 GPUs for 45 adapters" in text
    for claim in ("re-simulated", "fresh seed", "verified", "Promise", "Filled", "hatched"):
        assert claim not in text, claim
    badges = [a["class"] for _, a in tree.seen if "badge" in (a.get("class") or "")]
    assert badges == ["badge warn"] * 5  # the plan, two rooms, two rows of evidence
    assert "98.7%" in text
    assert "345" in text


def test_a_plan_of_which_a_part_was_simulated_says_so(plan):
    from dataclasses import replace

    mixed = replace(plan, verified=False, gpus=(plan.gpus[0], *predicted(plan).gpus[1:]))
    text = parsed(render(Sources(plan=mixed))).text
    assert "some GPUs re-simulated, the rest predicted" in text
    assert "Filled" in text


def test_a_simulated_plan_that_does_not_hold_is_not_called_verified(plan):
    from dataclasses import replace

    twin = {**plan.gpus[0].twin, "violations": ["served 0.9 < 0.98"]}
    broken = replace(plan, verified=False, gpus=(replace(plan.gpus[0], twin=twin), plan.gpus[1]))
    text = parsed(render(Sources(plan=broken))).text
    assert "every GPU re-simulated on 3 fresh seeds" in text
    assert "not verified" in text
    assert "served 0.9 < 0.98" in text


def test_only_the_proven_bound_is_called_one(plan):
    from dataclasses import replace

    both = replace(plan, lower_bound=1.9, bound={"true": 1.43, "estimate": 1.9})
    text = parsed(render(Sources(plan=both))).text
    assert "no plan needs fewer than 1.43; by estimate than 1.90" in text


def method(name, slots, n_gpus, verified=True):
    return {
        "method": name,
        "slots": slots,
        "n_gpus": n_gpus,
        "verified": verified,
        "cost_per_hour": 2.95 * n_gpus,
        "kwh_per_hour": 0.7 * n_gpus,
    }


METHODS = [
    method("greedy", "own", 2),
    method("random", "own", 7),
    method("random", "ours", 3),
    method("least", "own", 3),
    method("broken", "own", 1, verified=False),
]


def test_savings_are_against_baselines_that_hold_with_their_own_slots(plan):
    text = parsed(render(Sources(plan=plan, comparison=METHODS))).text
    assert "1 to 5" in text
    assert "against 2 baselines that hold, up to 14.75 USD/h and 3.5 kW" in text
    alone = parsed(render(Sources(plan=plan, comparison=METHODS[:1]))).text
    assert "GPUs saved" not in alone


def test_a_method_s_two_bars_stand_side_by_side():
    figure = figures.savings(METHODS)
    for layer in figure.spec["layer"]:
        assert layer["encoding"]["yOffset"]["field"] == "slots"
    (data,) = figure.spec["datasets"].values() if "datasets" in figure.spec else [None]
    rows = data or figure.spec["data"]["values"]
    assert [(row["method"], row["slots"], row["n_gpus"]) for row in rows if row["n_gpus"] > 2] == [
        ("random", "own", 7),
        ("random", "ours", 3),
        ("least", "own", 3),
    ]
    kinds = {row["method"]: row["bar"] for row in rows}
    assert kinds["greedy"] == "slots as greedy chooses them"
    assert kinds["broken"] == "breaks its service level"


def test_a_wide_frontier_has_logarithmic_axes_and_survives_zeros():
    import polars as pl

    frame = pl.DataFrame(
        {
            "n_adapters": [8, 512, 4],
            "offered_tps": [1e2, 1e5, 0.0],
            "served_fraction": [1.0, 0.5, 1.0],
        }
    )
    encoding = figures.frontier(frame).spec["encoding"]
    assert encoding["x"]["scale"]["type"] == encoding["y"]["scale"]["type"] == "log"
    assert figures.frontier(frame.filter(pl.col("offered_tps") == 0)) is None
    narrow = figures.frontier(frame.head(1)).spec["encoding"]
    assert "type" not in narrow["x"]["scale"]


def test_two_plans_are_refused(folder):
    with pytest.raises(InputError, match="second plan"):
        read_sources([folder, folder / "plan.json"])


NAN = float("nan")


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"methods": [1]}, "methods[0]"),
        ({"methods": [{}]}, "methods[0]"),
        ({"methods": [{"method": 3}]}, "methods[0]"),
        ({"methods": [{**method("a", "own", 1), "n_gpus": "x"}]}, "methods[0].n_gpus"),
        ({"methods": [method("a", "own", 1), method("b", "own", -1)]}, "methods[1].n_gpus"),
        ({"methods": [method("a", "own", NAN)]}, "methods[0].n_gpus"),
        ({"methods": [{**method("a", "own", 1), "cost_per_hour": "1"}]}, "methods[0].cost_per"),
        ({"curve": [1]}, "curve[0]"),
        ({"curve": [{"adapters": "x", "max_loras": 1}]}, "curve[0].adapters"),
        ({"curve": [{"adapters": 1, "max_loras": None}]}, "curve[0].max_loras"),
        (
            {"curve": [{"adapters": 1, "max_loras": 1, "throughput_tps": float("inf")}]},
            "curve[0].throughput_tps",
        ),
        ({"curve": [], "maxpack": []}, "maxpack"),
    ],
)
def test_a_damaged_answer_is_refused_by_its_place(tmp_path, document, place):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_sources([path])
    assert caught.value.file == str(path)
    assert caught.value.place.startswith(place)
    assert "--json` wrote" in caught.value.mend


@pytest.mark.parametrize(
    "text",
    [
        "simulated_tps,measured_tps\nfast,1\n",
        "served_fraction,max_loras,n_adapters,offered_tps\n0.5,8,many,100\n",
    ],
)
def test_a_column_of_words_is_refused(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match="give numbers") as caught:
        read_sources([tmp_path / "x.csv"])
    assert caught.value.place.startswith("column ")


@pytest.mark.parametrize(
    "text",
    [
        "simulated_tps,measured_tps,starved\nNaN,1,maybe\n",
        "simulated_tps,measured_tps,simulated_ttft_ms,mean_ttft_ms,starved\n1,1,inf,2,maybe\n",
        "simulated_tps,measured_tps\n",
        "served_fraction,max_loras,n_adapters,offered_tps\n0.5,8,4,inf\nNaN,8,,100\n",
    ],
)
def test_what_is_no_finite_number_is_left_out(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    html = render(read_sources([tmp_path / "x.csv"]))
    specs = re.search(r'id="specs">(.*?)</script>', html, re.DOTALL)
    assert specs is None or "NaN" not in specs[1]


def test_scores_that_are_no_numbers_are_left_out(tmp_path):
    answer = {"n_runs": 3, "throughput": {"mape": NAN, "smape": 1.0}, "itl": {"mape": "x"}}
    (tmp_path / "x.json").write_text(json.dumps(answer))
    assert "Scores over" not in render(read_sources([tmp_path / "x.json"]))


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"gpus": [{}]}', '"x"'])
def test_a_file_that_holds_nothing_known_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError):
        read_sources([path])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="sources"):
        read_sources([tmp_path])


def test_a_broken_table_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(InputError, match="Parquet"):
        read_sources([tmp_path / "x.parquet"])


def test_a_sweep_gives_the_frontier():
    import polars as pl

    frame = pl.DataFrame(
        {"n_adapters": [8, 16], "offered_tps": [1e3, 2e3], "served_fraction": [1.0, 0.5]}
    )
    assert "Starvation frontier" in parsed(render(Sources(sweep=frame))).text


def test_scores_of_validate_are_shown(tmp_path):
    errors = {"mape": 1.25, "smape": 0.6, "n": 3}
    answer = {"n_runs": 3, "throughput": errors, "itl": {"mape": None}, "starvation": {}}
    (tmp_path / "validate.json").write_text(json.dumps(answer))
    text = parsed(render(read_sources([tmp_path]))).text
    assert "Scores over 3 runs" in text
    assert "1.25" in text


def test_tiles_fill_their_part_of_the_room(plan):
    room = room_of(plan.gpus[0])
    area = sum(tile.width * tile.height for tile in room.tiles)
    assert area == pytest.approx(WIDTH * HEIGHT / 1.08)
    heaviest = max(room.tiles, key=lambda tile: tile.load)
    assert heaviest.width * heaviest.height == pytest.approx(area * heaviest.load / room.load)


def test_a_crowd_of_small_adapters_shares_a_tile(plan):
    from dataclasses import replace

    gpu = plan.gpus[0]
    crowd = [replace(gpu.adapters[n % 40], adapter=f"a{n}") for n in range(900)]
    room = room_of(replace(gpu, adapters=tuple(crowd)))
    assert len(room.tiles) == 401
    assert room.tiles[-1].name == "500 more adapters"


@given(
    st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=60),
    st.floats(1.0, 500.0),
    st.floats(1.0, 500.0),
)
def test_squarified_parts_keep_their_area_and_stay_inside(sizes, width, height):
    sizes = sorted(sizes, reverse=True)
    boxes = squarified(sizes, width, height)
    scale = width * height / sum(sizes)
    slack = 1e-6 * max(width, height)
    for size, (x, y, w, h) in zip(sizes, boxes, strict=True):
        assert w * h == pytest.approx(size * scale, rel=1e-6)
        assert min(x, y) >= 0
        assert x + w <= width + slack
        assert y + h <= height + slack


def test_measured_runs_are_replayed_and_drawn(measured_data, tmp_path):
    import polars as pl

    runs = pl.read_csv(measured_data / "vllm-h100" / "serving_runs.csv")
    light = runs.filter(pl.col("out_of_memory") == 0).sort("mean_running").head(2)
    light.write_csv(tmp_path / "runs.csv")
    tree = parsed(render(read_sources([tmp_path / "runs.csv"])))
    assert "Throughput, tokens/s" in tree.text
    assert "2 runs; MAPE" in tree.text
