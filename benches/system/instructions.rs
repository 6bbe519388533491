//! The instructions that a worker of Envoy executes for one request, counted exactly, and compared with those of a file.
//!
//! CPU time wanders by a tenth and more on a shared machine; the number of instructions does not. Envoy runs under QEMU's
//! user mode, V8 and what it compiles included, and a plugin of QEMU counts. The kernel's work is not in it.
//!
//! The non-obvious rule: as many variants run at once as there are processors. What one executes does not depend on the
//! others, only how long it takes.

#[path = "instructions/counter.rs"]
mod counter;
#[path = "instructions/figures.rs"]
mod figures;
#[path = "instructions/measure.rs"]
mod measure;
#[path = "instructions/variants.rs"]
mod variants;

use std::{
    collections::{BTreeMap, VecDeque},
    env, fs,
    path::PathBuf,
    sync::{Mutex, mpsc},
    thread,
    time::Instant,
};

use self::{figures::Figures, variants::Variant};
use super::{on_this_thread, progress, support::envoy::repository};

/// The committed figures.
const FILE: &str = "benches/instructions.tsv";

/// In `VARIANTS`, stands for all that a change of the module can alter, and what they are compared with.
const OF_THE_MODULE: &str = "module";

/// Counts all variants, or those that `VARIANTS` names, prints them and compares them with the file; with `UPDATE_FIGURES`
/// it writes the file instead. Returns whether none takes too many.
pub fn count() -> bool {
    let chosen = env::var("VARIANTS").unwrap_or_default();
    let chosen: Vec<&str> = chosen.split_whitespace().collect();
    let mut variants = variants::all();
    let names: Vec<&str> = variants.iter().map(|variant| variant.name).collect();
    for name in &chosen {
        assert!(
            *name == OF_THE_MODULE || names.contains(name),
            "VARIANTS: {name} is neither {OF_THE_MODULE:?} nor one of {names:?}"
        );
    }
    variants.retain(|variant| match &chosen[..] {
        [] => !variant.only_if_named,
        chosen => {
            chosen.contains(&variant.name)
                || chosen.contains(&OF_THE_MODULE) && variant.is_of_the_module()
        }
    });

    println!(
        "\nInstructions of a worker for one request; {} variants",
        variants.len()
    );
    let counted = count_at_once(&variants);
    print(&variants, &counted);
    let is_whole = counted.len() == variants.len();
    let now = Figures {
        envoy: env::var("ENVOY_VERSION").expect("scripts/bench tells the version"),
        processor: env::consts::ARCH.to_owned(),
        instructions: counted,
    };
    is_whole && judge(&now, chosen.is_empty(), &names)
}

/// Returns the instructions of each variant that could be counted. What went wrong with another is printed at once.
fn count_at_once(variants: &[Variant]) -> BTreeMap<String, u64> {
    let waiting: Mutex<VecDeque<&Variant>> = Mutex::new(variants.iter().collect());
    let next = || waiting.lock().expect("no panic while locked").pop_front();
    let (sender, results) = mpsc::channel();
    let mut counted = BTreeMap::new();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let sender = sender.clone();
            scope.spawn(move || {
                while let Some(variant) = next() {
                    let begun = Instant::now();
                    // On a thread of its own, so that a variant that fails ends alone.
                    let result = scope.spawn(|| counted_on_this_thread(variant)).join();
                    sender
                        .send((variant.name, result, begun.elapsed().as_secs()))
                        .expect("results are awaited");
                }
            });
        }
        drop(sender);
        for (number, (name, result, seconds)) in results.into_iter().enumerate() {
            let number = number + 1;
            let all = variants.len();
            match result {
                Ok(instructions) => {
                    progress(&format!(
                        "{number} of {all}: {name} {instructions}, {seconds} s"
                    ));
                    counted.insert(name.to_owned(), instructions);
                }
                Err(_) => progress(&format!("{number} of {all}: {name} FAILED, see above")),
            }
        }
    });
    counted
}

fn counted_on_this_thread(variant: &Variant) -> u64 {
    let mut instructions = 0;
    on_this_thread(async { instructions = measure::instructions(variant).await });
    instructions
}

fn print(variants: &[Variant], counted: &BTreeMap<String, u64>) {
    println!("\n| variant | what | instructions | added | ratio |");
    println!("|---|---|--:|--:|--:|");
    for variant in variants {
        let Some(&instructions) = counted.get(variant.name) else {
            continue;
        };
        let beside = variant.beside.and_then(|name| counted.get(name));
        let (added, ratio) = match beside {
            Some(beside) => (
                thousands(instructions as i64 - *beside as i64),
                format!("{:.2}", instructions as f64 / *beside as f64),
            ),
            None => (String::new(), String::new()),
        };
        println!(
            "| `{}` | {} | {} | {added} | {ratio} |",
            variant.name,
            variant.what,
            thousands(instructions as i64)
        );
    }
}

/// A number with a comma before every three digits.
fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Compares with the file, or writes it. `is_all`: none of the variants with these `names` was left out.
fn judge(now: &Figures, is_all: bool, names: &[&str]) -> bool {
    let path: PathBuf = repository().join(FILE);
    let recorded = fs::read_to_string(&path).map(|text| Figures::parse(&text));
    if env::var_os("UPDATE_FIGURES").is_some() {
        let mut written = now.clone();
        if let Ok(recorded) = recorded
            && !is_all
        {
            written = recorded.with(now);
        }
        fs::write(&path, written.to_text()).expect("the repository can be written to");
        println!("\n  written: {FILE}");
        return true;
    }
    let mut recorded = recorded.unwrap_or_else(|error| panic!("{FILE}: {error}"));
    if !now.are_comparable(&recorded) {
        println!(
            "\n  NOT compared: {FILE} is of Envoy {} on {}, this is {} on {}",
            recorded.envoy, recorded.processor, now.envoy, now.processor
        );
        return true;
    }
    if !is_all {
        let is_left_out =
            |variant: &str| names.contains(&variant) && !now.instructions.contains_key(variant);
        recorded
            .instructions
            .retain(|variant, _| !is_left_out(variant));
    }
    let complaints = now.complaints(&recorded);
    for complaint in &complaints {
        eprintln!("error: {complaint}");
    }
    for better in now.improved(&recorded) {
        println!("  {better}: far fewer than in {FILE}; UPDATE_FIGURES=1 writes it anew");
    }
    if complaints.is_empty() {
        println!(
            "\n  compared with {FILE}: no variant takes over {} % more",
            100.0 * figures::TOLERANCE
        );
    } else {
        eprintln!(
            "       the figures of {FILE} may be passed by {} %; if it must be so: \
             UPDATE_FIGURES=1 make bench PART=instructions",
            100.0 * figures::TOLERANCE
        );
    }
    complaints.is_empty()
}
