//! What each fuzz target checks holds for its seeds, and for seeds that are cut or changed a little. It takes no fuzzer and always
//! tries the same inputs, so it runs with every test: `make fuzz` looks further.
//!
//! The files of the targets are compiled into this program. They name `libfuzzer_sys`, which this program is to them.

#![cfg(not(target_arch = "wasm32"))]
#![allow(
    clippy::duplicate_mod,
    reason = "each target is a program of its own elsewhere"
)]

extern crate self as libfuzzer_sys;

use std::{collections::BTreeSet, fs, path::PathBuf};

use fastrand::Rng;

/// The modules of the targets, and a list of them by name.
macro_rules! targets {
    ($($name:ident = $path:literal,)*) => {
        $(
            #[path = $path]
            #[allow(unused_attributes, reason = "a fuzz target has no main function")]
            mod $name;
        )*

        const TARGETS: &[(&str, fn(&[u8]))] = &[$((stringify!($name), $name::try_input)),*];
    };
}

targets! {
    configuration = "../fuzz/fuzz_targets/configuration.rs",
    credential = "../fuzz/fuzz_targets/credential.rs",
    endpoint = "../fuzz/fuzz_targets/endpoint.rs",
    head = "../fuzz/fuzz_targets/head.rs",
    introspection = "../fuzz/fuzz_targets/introspection.rs",
    introspection_form = "../fuzz/fuzz_targets/introspection_form.rs",
    provisioning = "../fuzz/fuzz_targets/provisioning.rs",
    shared_data = "../fuzz/fuzz_targets/shared_data.rs",
    worker = "../fuzz/fuzz_targets/worker.rs",
}

/// Makes a function of what a target does with an input. It stands behind the targets, so that they find it by its path.
#[macro_export]
macro_rules! fuzz_target {
    (|$input:ident: &[u8]| $body:block) => {
        pub fn try_input($input: &[u8]) $body
    };
}

/// Inputs that are made of each seed.
const VARIANTS: usize = 50;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names of the targets, as the fuzzer has them.
fn known() -> BTreeSet<String> {
    let manifest = fs::read_to_string(folder().join("Cargo.toml")).expect("the fuzz crate");
    let (_, programs) = manifest.split_once("[[bin]]").expect("targets");
    let names = programs
        .lines()
        .filter_map(|line| line.strip_prefix("name = "));
    names
        .map(|name| name.trim_matches('"').to_owned())
        .collect()
}

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(folder().join("seeds").join(target)).expect("seeds");
    let mut paths: Vec<PathBuf> = files.map(|file| file.expect("a seed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).expect("a seed"));
    paths.into_iter().map(read).collect()
}

/// The seed cut, or with some of its bytes changed.
fn variant(seed: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    if random.bool() {
        bytes.truncate(random.usize(..=seed.len()));
    }
    for _ in 0..random.usize(..4) {
        if !bytes.is_empty() {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
    }
    bytes
}

#[test]
fn every_target_is_run() {
    let run: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(run, known());
}

#[test]
fn every_target_holds_for_its_seeds_and_what_is_near_them() {
    for (name, try_input) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= 5, "{name}: {}", seeds.len());
        let mut random = Rng::with_seed(7);
        for (path, seed) in &seeds {
            println!("{path}");
            try_input(seed);
            for _ in 0..VARIANTS {
                let variant = variant(seed, &mut random);
                println!("  {}", variant.escape_ascii());
                try_input(&variant);
            }
        }
    }
}
