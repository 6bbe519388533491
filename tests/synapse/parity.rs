//! Parity: a request through the module ends as it would have ended at Synapse, and Synapse acts as the same user.
//!
//! Each request is made up at random and sent on three ways: to Synapse itself (HTTP/1.1 only, since Synapse speaks
//! no other), through an Envoy without the module, and through the module. The second tells the module's own effect
//! from Envoy's. Status, `errcode`, `error` and the user are compared. A difference is in the lists of
//! [`differences`], which `docs/parity.md` explains one by one, or the test fails.
//!
//! The seed is printed. `PARITY_SEED=n` makes up the same requests again, `PARITY_REQUESTS=n` says how many, and
//! `PARITY_REQUEST=n` sends only the one with this number and prints what became of it. `make parity` sets all three.
//! `PARITY_EXAMPLES=1` prints the first request of each listed difference.

mod author;
mod differences;
mod http2;
mod outcome;
mod request;
mod stand;
mod tokens;

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use matrix_edge_auth::{
    mas::token::{Shape, shape},
    matrix::endpoint::{AuthRequirement, Method, classify},
};
use stand_in::mas::Session;
use tokio::{task::JoinSet, time::Instant};

use self::{
    author::{Case, Material},
    differences::{Difference, OF_ENVOY, OF_MODULE, Outcomes},
    outcome::{Actor, Outcome},
    request::Version,
    stand::Stand,
};
use super::rig::device;

const REQUESTS: u64 = 2_000;
/// How many requests are under way at a time.
const SENDERS: usize = 6;
/// More than this many failures are not worth waiting for.
const MAX_FAILURES: usize = 100;

/// The explanation of every listed difference.
const DOCUMENT: &str = include_str!("../../docs/parity.md");

#[test]
fn every_request_ends_as_at_synapse_alone() {
    let number = |name| {
        let text = env::var(name).ok().filter(|text| !text.is_empty())?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name} is a number, not {text}")),
        )
    };
    let seed = number("PARITY_SEED").unwrap_or_else(|| fastrand::u64(..));
    let requests = number("PARITY_REQUESTS").unwrap_or(REQUESTS);
    println!("to repeat: make parity REQUESTS={requests} SEED={seed}");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (stand, material) = Stand::start().await;
        match number("PARITY_REQUEST") {
            Some(number) => replay(&stand, &material, seed, number).await,
            None => run(stand, material, seed, requests).await,
        }
    });
}

#[test]
fn every_listed_difference_is_explained() {
    for Difference { name, .. } in OF_MODULE.iter().chain(&OF_ENVOY) {
        let heading = format!("\n### {name}\n");
        assert!(
            DOCUMENT.contains(&heading),
            "docs/parity.md has no section {name:?}"
        );
    }
}

/// Sends one request and prints all that is known of it.
async fn replay(stand: &Stand, material: &Material, seed: u64, number: u64) {
    let case = material.case(seed, number);
    give_tokens(stand, &case);
    let outcomes = stand.sender().send(&case).await;
    println!("{}", describe(&case, &outcomes));
    match judge(&case, &outcomes) {
        Ok(finding) => println!("{finding:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

async fn run(stand: Stand, material: Material, seed: u64, requests: u64) {
    let stand = Arc::new(stand);
    let next = Arc::new(AtomicU64::new(0));
    let report = Arc::new(Mutex::new(Report::default()));
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (stand, material, next, report) = (
            stand.clone(),
            material.clone(),
            next.clone(),
            report.clone(),
        );
        senders.spawn(async move {
            let mut sender = stand.sender();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= requests
                    || report.lock().expect("no panic while locked").failures.len() >= MAX_FAILURES
                {
                    break;
                }
                let case = material.case(seed, number);
                give_tokens(&stand, &case);
                let outcomes = sender.send(&case).await;
                let mut report = report.lock().expect("no panic while locked");
                report.add(number, &case, &outcomes);
                if report.requests % 1_000 == 0 {
                    println!(
                        "parity: {} of {requests} requests, {} s",
                        report.requests,
                        started.elapsed().as_secs()
                    );
                }
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.expect("no panic in a sender");
    }
    let report = report.lock().expect("no panic while locked");
    println!("{report}");
    assert!(
        report.failures.is_empty(),
        "{}\n\n{} differences are not listed. One of them again: make parity SEED={seed} REQUEST=<number>",
        report.failures.join("\n\n"),
        report.failures.len(),
    );
    assert!(report.same_user > 0, "no request had a user");
}

fn give_tokens(stand: &Stand, case: &Case) {
    for (token, user) in &case.sessions {
        stand
            .mas
            .insert(token, Session::access(user, &device(user)).permanent());
    }
}

/// What is found to be so.
#[derive(Debug, Default)]
struct Finding {
    /// The listed difference that the module makes.
    of_module: Option<&'static str>,
    /// The listed difference that Envoy makes.
    of_envoy: Option<&'static str>,
    /// Whether the module named a user.
    identity: Identity,
}

/// Who the module said that it was, beside whom Synapse acted as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Identity {
    /// Neither has a user.
    #[default]
    Nobody,
    /// Both have the same.
    Same,
    /// The module named one, and Synapse then refused the request or did not look.
    Unused,
    /// Synapse acted as a user whom the module does not name by design.
    NotNamed(&'static str),
}

fn judge(case: &Case, outcomes: &Outcomes) -> Result<Finding, String> {
    if outcomes.is_bypass() {
        return Err("BYPASS".to_owned());
    }
    let find = |list: &[Difference]| {
        list.iter()
            .find(|each| (each.covers)(&case.request, outcomes))
            .map(|each| each.name)
    };
    let mut finding = Finding {
        identity: judge_identity(case, &outcomes.gated)?,
        ..Finding::default()
    };
    if outcomes.has_difference_of_module() {
        finding.of_module = Some(find(&OF_MODULE).ok_or("the module's difference is not listed")?);
    }
    if outcomes.has_difference_of_envoy() {
        finding.of_envoy = Some(find(&OF_ENVOY).ok_or("Envoy's difference is not listed")?);
    }
    Ok(finding)
}

fn judge_identity(case: &Case, gated: &Outcome) -> Result<Identity, String> {
    let Some(witness) = &gated.witness else {
        return Ok(Identity::Nobody);
    };
    let value = |name: &str| -> Result<Option<String>, String> {
        let mut values = witness
            .identity
            .iter()
            .filter_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|value| {
                percent_encoding::percent_decode_str(value)
                    .decode_utf8_lossy()
                    .into_owned()
            })),
            _ => Err(format!("{name} twice")),
        }
    };
    let (user, device) = (value("x-matrix-user-id")?, value("x-matrix-device-id")?);
    let known = usize::from(user.is_some()) + usize::from(device.is_some());
    if known != witness.identity.len() {
        return Err("FORGED: a header that is not the module's".to_owned());
    }
    if witness
        .identity
        .iter()
        .any(|field| field.to_ascii_lowercase().contains("mallory"))
    {
        return Err("FORGED: a header from outside".to_owned());
    }
    match (user, &witness.actor) {
        (None, None) => Ok(Identity::Nobody),
        (None, Some(actor)) => not_named(case, gated, actor)
            .map(Identity::NotNamed)
            .ok_or("no identity".to_owned()),
        (Some(_), None) => Ok(Identity::Unused),
        (Some(user), Some(actor))
            if user == actor.user && device.unwrap_or_default() == actor.device =>
        {
            if actor.appservice.is_empty() {
                Ok(Identity::Same)
            } else {
                Err("an appservice is named".to_owned())
            }
        }
        (Some(user), Some(actor)) => Err(format!("WRONG IDENTITY: {user} for {actor:?}")),
    }
}

/// Why the module names nobody though Synapse acts as somebody, if that is meant.
fn not_named(case: &Case, gated: &Outcome, actor: &Actor) -> Option<&'static str> {
    let request = &case.request;
    let token = gated.token().unwrap_or_default();
    let method = Method::from_bytes(request.method.as_bytes());
    if !actor.appservice.is_empty() {
        Some("an appservice")
    } else if classify(&request.target, method) == AuthRequirement::Appservice {
        Some("an endpoint for appservices")
    } else if request.method == "POST" && request.values("authorization").next().is_none() {
        Some("a form")
    } else if !case.is_strict && shape(token) == Shape::Unrecognized {
        Some("a token that MAS does not make")
    } else {
        None
    }
}

fn describe(case: &Case, outcomes: &Outcomes) -> String {
    let Outcomes {
        direct,
        plain,
        gated,
        reference,
    } = outcomes;
    let mut text = format!(
        "{:?}, {}: {}\n  module: {gated}\n  Envoy:  {plain}",
        case.request.version,
        if case.is_strict { "introspect" } else { "pass" },
        case.request,
    );
    if let Some(direct) = direct {
        text.push_str(&format!("\n  Synapse: {direct}"));
    }
    if let Some(reference) = reference {
        text.push_str(&format!("\n  the credential alone: {reference}"));
    }
    text
}

/// What is said of all requests in the end.
#[derive(Default)]
struct Report {
    requests: u64,
    http2: u64,
    authenticated: u64,
    same_user: u64,
    unused: u64,
    not_named: BTreeMap<&'static str, u64>,
    statuses: BTreeMap<u16, u64>,
    of_module: BTreeMap<&'static str, (u64, String)>,
    of_envoy: BTreeMap<&'static str, (u64, String)>,
    failures: Vec<String>,
}

impl Report {
    fn add(&mut self, number: u64, case: &Case, outcomes: &Outcomes) {
        self.requests += 1;
        self.http2 += u64::from(case.request.version == Version::Http2);
        self.authenticated += u64::from(outcomes.plain.actor().is_some());
        *self.statuses.entry(outcomes.plain.status()).or_default() += 1;
        let finding = match judge(case, outcomes) {
            Ok(finding) => finding,
            Err(failure) => {
                self.failures.push(format!(
                    "{failure}\nrequest {number}, {}",
                    describe(case, outcomes)
                ));
                return;
            }
        };
        for (found, counts) in [
            (finding.of_module, &mut self.of_module),
            (finding.of_envoy, &mut self.of_envoy),
        ] {
            if let Some(name) = found {
                let example = || format!("request {number}, {}", describe(case, outcomes));
                counts.entry(name).or_insert_with(|| (0, example())).0 += 1;
            }
        }
        match finding.identity {
            Identity::Nobody => {}
            Identity::Same => self.same_user += 1,
            Identity::Unused => self.unused += 1,
            Identity::NotNamed(reason) => *self.not_named.entry(reason).or_default() += 1,
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} requests, {} of them over HTTP/2",
            self.requests, self.http2
        )?;
        writeln!(f, "statuses without the module: {:?}", self.statuses)?;
        writeln!(
            f,
            "Synapse acted as somebody in {}; the module named the same user and device in {}, and another in 0",
            self.authenticated, self.same_user
        )?;
        writeln!(
            f,
            "named, and Synapse refused or did not look: {}",
            self.unused
        )?;
        writeln!(f, "not named by design: {:?}", self.not_named)?;
        for (whose, counts) in [("the module", &self.of_module), ("Envoy", &self.of_envoy)] {
            let total: u64 = counts.values().map(|(count, _)| count).sum();
            writeln!(f, "differences of {whose}: {total}")?;
            for (name, (count, example)) in counts {
                writeln!(f, "  {count:>6}  {name}")?;
                if env::var_os("PARITY_EXAMPLES").is_some() {
                    writeln!(f, "{example}")?;
                }
            }
        }
        write!(
            f,
            "differences that are not listed: {}",
            self.failures.len()
        )
    }
}
