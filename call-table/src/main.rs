//! Makes a WebAssembly module call its larger functions through a table: `call-table MODULE RESULT`.
//!
//! Envoy lets V8 compile a module whole, by its optimizing compiler and without a profile, before the first VM begins.
//! V8 then copies every called function into its caller, whatever its size, until the caller has three times its length
//! or has taken 60. That doubles what it compiles, and so the time until Envoy is ready. A call through a table
//! (`call_indirect`, WebAssembly Core Specification, section 4.4.8) is never copied. It costs some eight instructions
//! more than a direct call.
//!
//! The non-obvious rule: functions of fewer than [`MIN_BYTES`] bytes are called as before. Requests call those most, and
//! a copy of one is hardly longer than the call. Nothing may optimize the module afterwards: `wasm-opt` would turn the
//! calls back.

mod rewrite;

use std::{env, fs, process::ExitCode};

/// Length of a function's body from which on it is called through the table. Counted by `make bench
/// PART=instructions` and `PART=start`: from 50 on the module is ready 3 % sooner and a token that nobody has seen costs some
/// hundred instructions more; from 80 on it is ready 12 % later and costs some hundred fewer.
const MIN_BYTES: usize = 60;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [module, result] = arguments.as_slice() else {
        eprintln!("call-table takes two files: the module, and where the result is to go");
        return ExitCode::FAILURE;
    };
    let written = fs::read(module)
        .map_err(|e| format!("{}: {e}", module.display()))
        .and_then(|bytes| {
            rewrite::rewrite(&bytes, MIN_BYTES).map_err(|e| format!("{}: {e}", module.display()))
        })
        .and_then(|bytes| {
            fs::write(result, bytes).map_err(|e| format!("{}: {e}", result.display()))
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
