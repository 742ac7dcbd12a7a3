//! The plain rules against recordings of the real scheduler and the real adapter caches.
#![expect(
    clippy::print_stdout,
    reason = "a test that compares nothing must say so"
)]

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use lorapack_oracle::residency::{Event, Residency};
use lorapack_oracle::scheduler::{Request, Scheduler};
use lorapack_twin::scenario::{EngineSettings, RuleSet};
use serde_json::{json, Value};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Recordings of one kind: those made by hand, and those of a folder beside the repository; says so
/// when there are none of the latter.
fn recordings(by_hand: &str, folder: &str) -> Vec<PathBuf> {
    let ours = Path::new(ROOT).join("../../tests/data/recordings");
    let mut paths = files(&ours, |name| name.starts_with(by_hand));
    assert!(
        !paths.is_empty(),
        "no recordings made by hand in {}",
        ours.display()
    );
    let theirs = Path::new(ROOT).join("../../../shared/data").join(folder);
    let recorded = files(&theirs, |name| name.ends_with(".jsonl.gz"));
    if recorded.is_empty() {
        println!("SKIPPED: no recordings in {}", theirs.display());
    }
    paths.extend(recorded);
    paths
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .collect();
    paths.retain(|path| {
        path.file_name()
            .is_some_and(|name| wanted(&name.to_string_lossy()))
    });
    paths.sort();
    paths
}

fn lines(path: &Path) -> Vec<Value> {
    let mut content = Vec::new();
    let mut file = File::open(path).expect("a readable file");
    if path.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(file)
            .read_to_end(&mut content)
            .expect("gzip");
    } else {
        file.read_to_end(&mut content).expect("a readable file");
    }
    content
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect()
}

fn number(value: &Value, key: &str) -> u32 {
    value[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} is a number")) as u32
}

fn settings(header: &Value) -> EngineSettings {
    let recorded = &header["settings"];
    EngineSettings {
        rule_set: match header["version"].as_str() {
            Some("0.33.0") => RuleSet::Vllm033,
            _ => RuleSet::Vllm085,
        },
        block_size: number(recorded, "block_size"),
        num_blocks: number(recorded, "num_blocks"),
        max_loras: number(recorded, "max_loras"),
        max_cpu_loras: number(recorded, "max_loras"),
        max_num_seqs: number(recorded, "max_num_seqs"),
        max_num_batched_tokens: number(recorded, "max_num_batched_tokens"),
        max_model_len: number(recorded, "max_model_len"),
        long_prefill_token_threshold: number(recorded, "long_prefill_token_threshold"),
    }
}

fn request(row: &Value) -> Request {
    let adapter = number(row, "adapter");
    Request::new(
        (adapter > 0).then_some(adapter),
        number(row, "prompt_tokens"),
        number(row, "output_tokens"),
    )
}

/// One step of ours in the columns of a recorded one.
fn step(scheduler: &mut Scheduler, number: u64) -> Value {
    let decision = scheduler.schedule();
    let mut adapters: Vec<u32> = decision
        .scheduled
        .iter()
        .filter_map(|&(request, _)| scheduler.requests[request].adapter)
        .collect();
    adapters.sort_unstable();
    adapters.dedup();
    let (waiting, running) = (scheduler.waiting.len(), scheduler.running.len());
    let free_blocks = scheduler.free_blocks;
    let update = scheduler.update(&decision);
    json!({
        "step": number,
        "scheduled": decision.scheduled,
        "new": decision.new,
        "resumed": decision.resumed,
        "preempted": decision.preempted,
        "finished": update.finished,
        "waiting": waiting,
        "running": running,
        "free_blocks": free_blocks,
        "free_blocks_end": scheduler.free_blocks,
        "distinct_adapters": adapters.len(),
        "skipped": decision.skipped,
    })
}

/// Drives our scheduler as the recorder drove the real one.
fn replay_scheduler(path: &Path) {
    let recorded = lines(path);
    let (header, recorded) = recorded.split_first().expect("a header");
    let requests = header["requests"].as_array().expect("requests");
    let cap = header["step_cap"].as_u64().map(|cap| cap as usize);
    let mut scheduler = Scheduler::new(settings(header));
    let mut added = 0;
    let mut clock = 0;
    let mut taken = 0;
    for theirs in recorded {
        if scheduler.waiting.is_empty() && scheduler.running.is_empty() {
            clock = clock.max(requests[added]["arrival_step"].as_u64().expect("a step"));
        }
        while added < requests.len() && requests[added]["arrival_step"] == json!(clock) {
            scheduler.add(request(&requests[added]));
            added += 1;
        }
        let ours = step(&mut scheduler, clock);
        for (field, value) in theirs.as_object().expect("an object") {
            assert_eq!(
                &ours[field],
                value,
                "{} step {clock}: {field}",
                path.display()
            );
        }
        clock += 1;
        taken += 1;
    }
    let idle = scheduler.waiting.is_empty() && scheduler.running.is_empty();
    assert!(
        cap == Some(taken) || (idle && added == requests.len()),
        "{}",
        path.display()
    );
}

#[test]
fn reproduces_every_recorded_scheduling_decision() {
    let paths = recordings("schedule", "vllm-sched");
    for path in &paths {
        replay_scheduler(path);
    }
    println!("{} scheduler recordings identical", paths.len());
}

fn replay_residency(path: &Path) {
    let recorded = lines(path);
    let (header, recorded) = recorded.split_first().expect("a header");
    let settings = &header["settings"];
    let mut residency = Residency::new(
        number(settings, "max_loras"),
        number(settings, "max_cpu_loras"),
    );
    for theirs in recorded {
        let batch: Vec<u32> = serde_json::from_value(theirs["batch"].clone()).expect("adapters");
        let ours: Vec<Value> = residency.walk(&batch).into_iter().map(event).collect();
        assert_eq!(
            json!(ours),
            theirs["events"],
            "{} step {}",
            path.display(),
            theirs["step"]
        );
    }
}

fn event(event: Event) -> Value {
    match event {
        Event::LoadDisk(adapter) => json!(["load_disk", adapter]),
        Event::LoadGpu(adapter) => json!(["load_gpu", adapter]),
        Event::EvictGpu(adapter) => json!(["evict_gpu", adapter]),
    }
}

#[test]
fn reproduces_every_recorded_adapter_load() {
    let paths = recordings("residency", "vllm-lora");
    for path in &paths {
        replay_residency(path);
    }
    println!("{} residency recordings identical", paths.len());
}
