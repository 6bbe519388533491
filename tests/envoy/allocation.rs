//! Memory that Envoy asks the module for, to hand it what a host call returns. Where there is none left, the call fails
//! and the VM lives on. No VM of a test gets that far, so the built module runs in Node here, without a host.

use std::{
    env,
    process::{Command, Output},
};

use crate::support::envoy::{module, repository};

/// Asks for more than there can be, for all that there is, and then for a little.
const SCRIPT: &str = r#"
    const module = new WebAssembly.Module(require("fs").readFileSync(process.argv[1]));
    const imports = {};
    for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
        if (kind !== "function") throw `${from}.${name} is a ${kind}`;
        (imports[from] ??= {})[name] = () => 0;
    }
    const { exports } = new WebAssembly.Instance(module, imports);
    const allocate = (bytes) => exports.proxy_on_memory_allocate(bytes) >>> 0;
    if (allocate(16) === 0) throw "there is memory at the start";
    if (allocate(0xffffffff) !== 0) throw "4 GiB are more than there can be";
    const gibibytes = [0, 1, 2, 3, 4].map(() => allocate(0x40000000));
    if (!gibibytes.includes(0)) throw `five GiB of four: ${gibibytes}`;
    if (allocate(16) === 0) throw "a little is left";
    console.log(`of five times 1 GiB ${gibibytes.filter((at) => at !== 0).length} were there`);
"#;

fn run() -> Output {
    let mut path = vec![repository().join(".tools/node")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    Command::new("node")
        .args(["-e", SCRIPT])
        .arg(module())
        .env("PATH", env::join_paths(path).expect("folders"))
        .output()
        .expect("node runs: `make build` needs it too")
}

#[test]
fn a_module_without_memory_says_so_and_lives() {
    let Output {
        status,
        stdout,
        stderr,
    } = run();
    let [said, errors] = [stdout, stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    assert!(status.success(), "{errors}");
    println!("{said}");
}
