//! `envoy/compose/homeserver.yaml` and `log.yaml`, read by Synapse itself, with the secrets that `envoy/compose/prepare.py`
//! makes.

use std::process::Command;

use crate::support::{envoy::repository, synapse::process::python};

/// Makes the secrets twice, reads the configuration, and prints what of it others must agree with.
const PROGRAM: &str = r#"
import pathlib, subprocess, sys
from synapse.config.homeserver import HomeServerConfig

compose, home = map(pathlib.Path, sys.argv[1:])
for _ in range(2):
    subprocess.run([sys.executable, "-B", compose / "prepare.py", home], check=True)
    made = {path.name: path.read_text() for path in home.iterdir()}
    before = locals().get("before", made)
assert made == before, "a second start makes no new secrets"
text = (compose / "homeserver.yaml").read_text()
for there, here in [("/secrets/", f"{home}/"), ("/data/", f"{home}/"), ("/log.yaml", compose / "log.yaml")]:
    assert there in text, there
    text = text.replace(there, str(here))
file = home / "homeserver.yaml"
file.write_text(text)
config = HomeServerConfig.load_config("Synapse", ["--config-path", str(file)])
assert config.mas.enabled and config.mas.secret() == made["shared"]
assert made["bearer"] == "Bearer " + made["shared"]
assert len(bytes.fromhex(made["encryption"])) == 32
assert len(config.key.signing_key) == 1
print(config.server.server_name, config.mas.endpoint, end="", flush=True)

# The file that the configuration names, as Synapse reads it at its start.
from synapse.config.logger import _load_logging_config
import logging
_load_logging_config(config.logging.log_config)
logging.getLogger("synapse.http").info("not to be heard")
logging.getLogger("synapse.http").warning("to be heard")
"#;

#[test]
fn synapse_takes_the_configuration() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let output = Command::new(python())
        .args(["-c", PROGRAM])
        .arg(repository().join("envoy/compose"))
        .arg(home.path())
        .output()
        .expect("Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "example.localhost http://envoy:10001/"
    );
    // What there is to say is on the container's standard error, for `docker compose logs`.
    let lines: Vec<&str> = said.lines().collect();
    let [line] = lines[..] else {
        panic!("one line: {said}");
    };
    assert!(
        line.ends_with(" WARNING synapse.http: to be heard"),
        "{line}"
    );
}
