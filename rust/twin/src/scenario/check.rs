//! What a scenario must be to run, and what to say where it is not.

use std::fmt;

use super::{Arrivals, EngineSettings, LengthShape, Scenario, Trace};
use crate::error::ScenarioError;
use crate::units::Time;

type Check = Result<(), ScenarioError>;

/// Refuses unless `right`; the texts are only made when it is not.
fn require(right: bool, place: &str, value: impl fmt::Display, mend: &str) -> Check {
    if right {
        return Ok(());
    }
    Err(ScenarioError {
        place: place.to_owned(),
        value: value.to_string(),
        mend: mend.to_owned(),
    })
}

/// Puts the check's place below another.
fn within(outer: &str, check: Check) -> Check {
    check.map_err(|error| nested(outer, error))
}

fn not_negative(place: &str, value: f64) -> Check {
    let right = value.is_finite() && value >= 0.0;
    require(right, place, value, "must be a number, zero or more")
}

fn positive(place: &str, value: f64) -> Check {
    let right = value.is_finite() && value > 0.0;
    require(right, place, value, "must be a number above zero")
}

pub(super) fn check_scenario(scenario: &Scenario) -> Check {
    within("engine", check_engine(&scenario.engine))?;
    for (index, shape) in scenario.length_shapes.iter().enumerate() {
        check_length_shape(shape)
            .map_err(|error| nested(&format!("length_shapes[{index}]"), error))?;
    }
    for index in 0..scenario.adapters.len() {
        check_adapter(scenario, index)
            .map_err(|error| nested(&format!("adapters[{index}]"), error))?;
    }
    if let Some(trace) = &scenario.trace {
        within("trace", check_trace(trace, scenario.adapters.len()))?;
    }
    within("step_time", check_step_time(scenario))?;
    check_times(scenario)
}

fn nested(outer: &str, error: ScenarioError) -> ScenarioError {
    ScenarioError {
        place: format!("{outer}.{}", error.place),
        ..error
    }
}

fn check_engine(engine: &EngineSettings) -> Check {
    let at_least_one = [
        ("block_size", engine.block_size),
        ("max_num_seqs", engine.max_num_seqs),
    ];
    for (name, value) in at_least_one {
        require(value >= 1, name, value, "must be at least 1")?;
    }
    require(
        engine.num_blocks >= 2,
        "num_blocks",
        engine.num_blocks,
        "must be at least 2: block 0 is the null block",
    )?;
    require(
        engine.max_num_batched_tokens >= engine.max_num_seqs,
        "max_num_batched_tokens",
        engine.max_num_batched_tokens,
        "must be at least max_num_seqs",
    )?;
    require(
        engine.max_model_len >= 2,
        "max_model_len",
        engine.max_model_len,
        "must be at least 2: one prompt token and one output token",
    )?;
    let largest = (engine.max_model_len - 1).div_ceil(engine.block_size);
    require(
        largest < engine.num_blocks,
        "num_blocks",
        engine.num_blocks,
        "one request of max_model_len must fit: more KV blocks or a smaller max_model_len",
    )?;
    require(
        engine.max_cpu_loras >= engine.max_loras,
        "max_cpu_loras",
        engine.max_cpu_loras,
        "must be at least max_loras",
    )
}

fn check_length_shape(shape: &LengthShape) -> Check {
    match shape {
        LengthShape::Constant {
            prompt_tokens,
            output_tokens,
        } => {
            require(
                *prompt_tokens >= 1,
                "prompt_tokens",
                prompt_tokens,
                "must be at least 1",
            )?;
            require(
                *output_tokens >= 1,
                "output_tokens",
                output_tokens,
                "must be at least 1",
            )
        }
        LengthShape::Lognormal {
            prompt_mean,
            prompt_sigma,
            output_mean,
            output_sigma,
            correlation,
        } => {
            positive("prompt_mean", *prompt_mean)?;
            not_negative("prompt_sigma", *prompt_sigma)?;
            positive("output_mean", *output_mean)?;
            not_negative("output_sigma", *output_sigma)?;
            let right = (-1.0..=1.0).contains(correlation);
            require(right, "correlation", correlation, "must be within -1..1")
        }
        LengthShape::Pairs {
            prompt_tokens,
            output_tokens,
        } => {
            let rows = prompt_tokens.len();
            require(
                rows > 0 && rows < u32::MAX as usize,
                "prompt_tokens",
                format_args!("{rows} rows"),
                "must have at least one row",
            )?;
            require(
                rows == output_tokens.len(),
                "output_tokens",
                format_args!("{} rows", output_tokens.len()),
                "must have as many rows as prompt_tokens",
            )?;
            for (name, column) in [
                ("prompt_tokens", prompt_tokens),
                ("output_tokens", output_tokens),
            ] {
                for (row, &value) in column.iter().enumerate() {
                    if !(value.is_finite() && value >= 0.0) {
                        not_negative(&format!("{name}[{row}]"), f64::from(value))?;
                    }
                }
            }
            Ok(())
        }
    }
}

fn check_adapter(scenario: &Scenario, index: usize) -> Check {
    let adapter = &scenario.adapters[index];
    within("arrivals", check_arrivals(&adapter.arrivals))?;
    require(
        (adapter.lengths.shape as usize) < scenario.length_shapes.len(),
        "lengths.shape",
        adapter.lengths.shape,
        "must be an index into length_shapes",
    )?;
    positive("lengths.prompt_scale", adapter.lengths.prompt_scale)?;
    positive("lengths.output_scale", adapter.lengths.output_scale)?;
    require(
        adapter.is_base || scenario.engine.max_loras > 0,
        "is_base",
        adapter.is_base,
        "an adapter needs LoRA on: max_loras of 1 or more",
    )?;
    let generated = !matches!(adapter.arrivals, Arrivals::None);
    require(
        scenario.duration.is_some() || !generated,
        "arrivals",
        "generated",
        "needs a duration: generated arrivals have no end of their own",
    )
}

fn check_arrivals(arrivals: &Arrivals) -> Check {
    match arrivals {
        Arrivals::None => Ok(()),
        Arrivals::Poisson { rate_rps } => not_negative("rate_rps", *rate_rps),
        Arrivals::Gamma { rate_rps, cv } | Arrivals::Weibull { rate_rps, cv } => {
            not_negative("rate_rps", *rate_rps)?;
            let right = (0.0..=100.0).contains(cv);
            require(right, "cv", cv, "must be within 0..100")
        }
        Arrivals::OnOff {
            rate_rps,
            on_s,
            off_s,
        } => {
            not_negative("rate_rps", *rate_rps)?;
            positive("on_s", *on_s)?;
            not_negative("off_s", *off_s)
        }
        Arrivals::Diurnal {
            rate_rps,
            amplitude,
            period_s,
            phase,
        } => {
            not_negative("rate_rps", *rate_rps)?;
            let right = (0.0..=1.0).contains(amplitude);
            require(right, "amplitude", amplitude, "must be within 0..1")?;
            positive("period_s", *period_s)?;
            let right = (0.0..=1.0).contains(phase);
            require(right, "phase", phase, "must be within 0..1")
        }
        Arrivals::Piecewise {
            starts_s,
            rates_rps,
        } => {
            require(
                starts_s.first() == Some(&0.0),
                "starts_s",
                format_args!("{:?}", starts_s.first()),
                "must begin with 0",
            )?;
            require(
                starts_s.len() == rates_rps.len(),
                "rates_rps",
                format_args!("{} rates", rates_rps.len()),
                "must have one rate a start",
            )?;
            for (index, pair) in starts_s.windows(2).enumerate() {
                let right = pair[1].is_finite() && pair[0] < pair[1];
                let place = format!("starts_s[{}]", index + 1);
                require(right, &place, pair[1], "must be later than the one before")?;
            }
            rates_rps
                .iter()
                .enumerate()
                .try_for_each(|(index, &rate)| not_negative(&format!("rates_rps[{index}]"), rate))
        }
    }
}

fn check_trace(trace: &Trace, n_adapters: usize) -> Check {
    let rows = trace.arrival.len();
    let columns = [
        ("adapter", trace.adapter.len()),
        ("prompt_tokens", trace.prompt_tokens.len()),
        ("output_tokens", trace.output_tokens.len()),
    ];
    for (name, length) in columns {
        let mend = "must have as many rows as arrival";
        require(rows == length, name, format_args!("{length} rows"), mend)?;
    }
    require(
        rows < 1 << 31,
        "arrival",
        format_args!("{rows} rows"),
        "must have fewer than 2^31 rows",
    )?;
    for (index, pair) in trace.arrival.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let place = format!("arrival[{}]", index + 1);
            require(
                false,
                &place,
                pair[1].seconds(),
                "must not be earlier than the row before",
            )?;
        }
    }
    for (row, &adapter) in trace.adapter.iter().enumerate() {
        if adapter as usize >= n_adapters {
            require(
                false,
                &format!("adapter[{row}]"),
                adapter,
                "must be an index into adapters",
            )?;
        }
    }
    Ok(())
}

fn check_step_time(scenario: &Scenario) -> Check {
    let entries = scenario.engine.max_num_batched_tokens as usize + 1;
    let step_time = &scenario.step_time;
    for (name, length) in [
        ("base", step_time.base.len()),
        ("distinct_adapter", step_time.distinct_adapter.len()),
    ] {
        require(
            length >= entries,
            name,
            format_args!("{length} entries"),
            "must cover 0..=max_num_batched_tokens",
        )?;
    }
    match step_time.base.iter().position(|&base| base == Time::ZERO) {
        Some(tokens) => require(
            false,
            &format!("base[{tokens}]"),
            0,
            "must be above zero: every step takes time",
        ),
        None => Ok(()),
    }
}

fn check_times(scenario: &Scenario) -> Check {
    const LONGEST: Time = Time(200 * 86_400 * 1_000_000_000_000);
    if let Some(duration) = scenario.duration {
        let right = duration > Time::ZERO && duration <= LONGEST;
        let mend = "must be above zero and at most 200 days";
        require(right, "duration", duration.seconds(), mend)?;
        require(
            scenario.warmup < duration,
            "warmup",
            scenario.warmup.seconds(),
            "must be shorter than the duration",
        )?;
    }
    require(
        scenario.scrape_interval != Some(Time::ZERO),
        "scrape_interval",
        0,
        "must be above zero, or none for no scrapes",
    )?;
    require(
        scenario.max_in_flight != Some(0),
        "max_in_flight",
        0,
        "must be at least 1, or none for no cap",
    )
}
