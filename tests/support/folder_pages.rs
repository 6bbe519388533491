//! The pages below `envoy/`, and `docs/deploy.md` which leads to them: the commands that they give, and who carries each out.
//!
//! The non-obvious rule: a command is told by its page and its text, so one that is new or changed belongs to nobody, and
//! the tests fail until it is run or has a reason here.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Who carries a command out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// `tests/envoy/folder_pages.rs`, with a real Envoy.
    Envoy,
    /// `tests/manifests/folder_pages.rs`, with a real kubectl before a stand-in for a cluster, and docker-compose.
    Manifests,
    /// A file of the project that runs it, as this reason says.
    Elsewhere(&'static str, &'static str),
}

/// A command of a page.
pub struct Command {
    pub page: &'static str,
    pub text: &'static str,
    pub runner: Runner,
}

const fn command(page: &'static str, text: &'static str, runner: Runner) -> Command {
    Command { page, text, runner }
}

use Runner::{Elsewhere, Envoy, Manifests};

/// Every command, page by page.
pub const COMMANDS: &[Command] = &[
    command(
        "docs/deploy.md",
        "MAS_SECRET=... func-e run -c envoy/local/envoy.yaml",
        Envoy,
    ),
    command(
        "docs/deploy.md",
        "matrix-edge-auth check",
        Elsewhere("cli/tests/shipped.rs", "it checks every folder"),
    ),
    command(
        "docs/deploy.md",
        "make cli",
        Elsewhere(".ci/run", "continuous integration runs it"),
    ),
    command(
        "docs/deploy.md",
        "make package",
        Elsewhere("scripts/package", "`make package` is what writes the image"),
    ),
    command(
        "envoy/compose/README.md",
        "make build",
        Elsewhere("scripts/build", "the layers of tests build with it"),
    ),
    command(
        "envoy/compose/README.md",
        "cd envoy/compose && docker compose up --detach",
        Manifests,
    ),
    command(
        "envoy/compose/README.md",
        "docker compose exec mas mas-cli manage register-user --yes --password 'correct horse battery' alice",
        Manifests,
    ),
    command(
        "envoy/compose/README.md",
        r#"curl http://localhost:10000/_matrix/client/v3/login --json '{"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}, "password": "correct horse battery"}'"#,
        Envoy,
    ),
    command(
        "envoy/compose/README.md",
        r#"curl http://localhost:10000/_matrix/client/v3/account/whoami --header "Authorization: Bearer mct_...""#,
        Envoy,
    ),
    command(
        "envoy/compose/README.md",
        "docker compose logs envoy",
        Manifests,
    ),
    command(
        "envoy/compose/README.md",
        "docker compose down --volumes",
        Manifests,
    ),
    command(
        "envoy/envoy-gateway/README.md",
        "printf %s \"$MAS_SECRET\" | kubectl -n envoy-gateway-system create secret generic matrix-edge-auth --from-file=mas-secret=/dev/stdin",
        Manifests,
    ),
    command(
        "envoy/envoy-gateway/README.md",
        "kubectl apply -f envoy/envoy-gateway/gateway.yaml -f envoy/envoy-gateway/routes.yaml -f envoy/envoy-gateway/policies.yaml",
        Manifests,
    ),
    command(
        "envoy/fleet/README.md",
        "MAS_SECRET=... envoy -c envoy.yaml",
        Envoy,
    ),
    command(
        "envoy/fleet/README.md",
        "kubectl apply -k envoy/kubernetes/overlays/fleet",
        Manifests,
    ),
    command(
        "envoy/fleet/README.md",
        "cargo test --features test-envoy --test envoy fleet:: -- --nocapture",
        Elsewhere("tests/envoy/fleet.rs", "it runs this test"),
    ),
    command(
        "envoy/istio/README.md",
        "printf %s \"$MAS_SECRET\" | kubectl -n istio-ingress create secret generic matrix-edge-auth --from-file=mas-secret=/dev/stdin",
        Manifests,
    ),
    command(
        "envoy/istio/README.md",
        "kubectl apply -f envoy/istio/labels.yaml",
        Manifests,
    ),
    command(
        "envoy/istio/README.md",
        "kubectl -n istio-ingress patch deployment istio-ingressgateway --patch-file envoy/istio/gateway-deployment.yaml",
        Manifests,
    ),
    command(
        "envoy/istio/README.md",
        "kubectl apply -f envoy/istio/connection.yaml -f envoy/istio/routes.yaml -f envoy/istio/wasmplugin.yaml",
        Manifests,
    ),
    command(
        "envoy/istio/README.md",
        "kubectl apply -f envoy/istio/connection.yaml -f envoy/istio/routes.yaml -f envoy/istio/internal.yaml -f envoy/istio/envoyfilter.yaml",
        Manifests,
    ),
    command(
        "envoy/istio/README.md",
        "matrix-edge-auth check envoy/istio/mesh.yaml envoy/istio/connection.yaml envoy/istio/routes.yaml envoy/istio/wasmplugin.yaml",
        Elsewhere("cli/tests/shipped.rs", "it checks every folder"),
    ),
    command(
        "envoy/istio/README.md",
        "helm upgrade istiod istio/istiod -n istio-system --reuse-values -f envoy/istio/mesh.yaml",
        Elsewhere(
            "tests/envoy/istio.rs",
            "it shows what the values make of paths, in a real Envoy",
        ),
    ),
    command(
        "envoy/istio/README.md",
        "kubectl -n istio-ingress rollout restart deployment istio-ingressgateway",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "printf %s \"$MAS_SECRET\" | kubectl -n matrix create secret generic matrix-edge-auth --from-file=mas-secret=/dev/stdin",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "kubectl apply -k envoy/kubernetes/overlays/shadow",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "kubectl apply -k envoy/kubernetes/overlays/enforce",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "kubectl apply -k envoy/kubernetes/overlays/fleet",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "kubectl -n matrix rollout restart deployment matrix-edge-auth",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "kubectl -n matrix delete deployment,horizontalpodautoscaler matrix-edge-auth",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "kubectl -n matrix delete statefulset matrix-edge-auth",
        Manifests,
    ),
    command(
        "envoy/kubernetes/README.md",
        "make package",
        Elsewhere("scripts/package", "`make package` is what writes the image"),
    ),
    command(
        "envoy/local/README.md",
        "make run",
        Elsewhere(
            "stand-in/tests/behaviour/local.rs",
            "it starts the program that this starts",
        ),
    ),
    command(
        "envoy/local/README.md",
        "MAS_SECRET=... func-e run -c envoy/local/envoy.yaml",
        Envoy,
    ),
    command(
        "envoy/production/README.md",
        "make build",
        Elsewhere("scripts/build", "the layers of tests build with it"),
    ),
    command(
        "envoy/production/README.md",
        "mkdir -p /etc/envoy/tls && (umask 077 && cp -n envoy/production/mas-secret.yaml /etc/envoy/)",
        Envoy,
    ),
    command(
        "envoy/production/README.md",
        "cp -n envoy/production/{envoy.yaml,certificate.yaml,deliver,envoy.service} dist/matrix-edge-auth.wasm /etc/envoy/",
        Envoy,
    ),
    command(
        "envoy/production/README.md",
        "sed -i -E 's/address: synapse-[a-z0-9-]+,/address: synapse,/' /etc/envoy/envoy.yaml",
        Envoy,
    ),
    command("envoy/production/README.md", "/etc/envoy/deliver", Envoy),
    command(
        "envoy/production/README.md",
        "envoy -c /etc/envoy/run/bootstrap.yaml --drain-time-s 60 --parent-shutdown-time-s 90",
        Envoy,
    ),
    command(
        "envoy/production/README.md",
        "curl -w '%{http_code}' localhost:8081/healthz",
        Envoy,
    ),
    command(
        "envoy/rate-limit/README.md",
        "MAS_SECRET=... func-e run -c envoy/rate-limit/envoy.yaml",
        Envoy,
    ),
    command(
        "envoy/sync-workers/README.md",
        "make build && UPDATE_FIGURES=1 cargo test --features test-envoy --test envoy sync_workers",
        Elsewhere("tests/envoy/sync_workers.rs", "it runs this test"),
    ),
    command(
        "envoy/sync-workers/README.md",
        "MAS_SECRET=... func-e run -c envoy/sync-workers/envoy.yaml",
        Envoy,
    ),
];

/// How a command between back quotes begins. Other words between them are names.
const PROGRAMS: &[&str] = &[
    "/etc/envoy/deliver",
    "cargo",
    "cd",
    "curl",
    "docker",
    "envoy",
    "func-e",
    "helm",
    "istioctl",
    "kubectl",
    "make",
    "matrix-edge-auth",
];

/// The pages, by their paths in the repository.
pub fn pages(repository: &Path) -> Vec<String> {
    let mut found = vec!["docs/deploy.md".to_owned()];
    let mut folders: Vec<PathBuf> = vec![repository.join("envoy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(repository).expect("it is below");
                found.push(name.display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// The commands of a page: those of `console` blocks, those on indented lines, and those between back quotes.
///
/// # Panics
///
/// If the page has a block of another kind.
pub fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut prose = String::new();
    for (at, part) in page.split("\n```").enumerate() {
        if at % 2 == 0 {
            prose += part.split_once('\n').map_or("", |(_, rest)| rest);
            continue;
        }
        let (language, block) = part.split_once('\n').unwrap_or_default();
        assert_eq!(language, "console", "nothing is done about\n{block}");
        let block = block.replace("\\\n", " ");
        found.extend(block.lines().map(|line| {
            let command = line.strip_prefix("$ ");
            command
                .unwrap_or_else(|| panic!("not a command: {line}"))
                .to_owned()
        }));
    }
    let (indented, sentences): (Vec<&str>, Vec<&str>) =
        prose.lines().partition(|line| line.starts_with("    "));
    found.extend(indented.iter().map(|line| line.trim_start().to_owned()));
    for paragraph in sentences.join("\n").split("\n\n") {
        let quoted = paragraph.split('`').skip(1).step_by(2);
        found.extend(
            quoted
                .filter(|text| begins_with_program(text))
                .map(str::to_owned),
        );
    }
    for command in &mut found {
        // What a comment explains is no part of it.
        let command_alone = command.split(" # ").next().unwrap_or_default();
        *command = command_alone
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
    }
    found
}

/// Whether a text is a command: a program, after its variables. A program's name alone is none.
fn begins_with_program(text: &str) -> bool {
    let is_variable = |word: &&str| {
        let name = word.split_once('=').map(|(name, _)| name);
        name.is_some_and(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let mut words = text.split_whitespace().skip_while(is_variable);
    words.next().is_some_and(|word| PROGRAMS.contains(&word)) && words.next().is_some()
}

/// The commands of the table that `runner` carries out.
pub fn commands_of(runner: Runner) -> impl Iterator<Item = &'static Command> {
    COMMANDS
        .iter()
        .filter(move |command| command.runner == runner)
}
