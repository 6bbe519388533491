//! CPU of the Envoy process per request, one kind of request after the other, over and over.

use serde_json::json;

use super::{
    Gateway,
    client::{self, Client},
    control::{self, Refusal},
    extent, median, plots, progress, tokens,
    upstream::Mas,
};

fn rounds() -> usize {
    extent(5, 3)
}

fn requests_of_a_round() -> usize {
    extent(32_768, 8_192)
}

fn cold_requests_of_a_round() -> usize {
    extent(4_096, 1_024)
}

/// One process may be faster than another that does the same, by where its code and data happen to lie.
fn pairs() -> usize {
    extent(2, 1)
}

const ROUNDS_OF_A_PAIR: usize = 2;

/// One kind of request: its name, where it goes, what is sent and what comes back.
struct Kind<'a> {
    name: &'static str,
    client: Client,
    gateway: &'a Gateway,
    requests: Vec<Vec<u8>>,
    /// In a round.
    number: usize,
    status: u16,
    micros: Vec<f64>,
}

impl<'a> Kind<'a> {
    fn new(name: &'static str, gateway: &'a Gateway, tokens: &[String], status: u16) -> Self {
        Self {
            name,
            client: Client::open(gateway.addr()),
            gateway,
            requests: requests(tokens),
            number: requests_of_a_round(),
            status,
            micros: Vec::new(),
        }
    }

    /// Tokens that nobody has seen: each is sent once.
    fn cold(name: &'static str, gateway: &'a Gateway, status: u16) -> Self {
        let tokens = tokens(name, (1 + rounds()) * cold_requests_of_a_round());
        Self {
            requests: tokens.iter().map(|token| client::attack(token)).collect(),
            number: cold_requests_of_a_round(),
            ..Self::new(name, gateway, &[], status)
        }
    }

    fn round(&mut self) {
        let before = self.gateway.process.cpu_micros();
        self.client.send(&self.requests, self.number, self.status);
        let used = self.gateway.process.cpu_micros() - before;
        self.micros.push(used / self.number as f64);
        let sent = self.number % self.requests.len();
        self.requests.rotate_left(sent);
    }
}

/// Takes the kinds in turn, so that whatever disturbs the machine disturbs all of them, and prints medians.
fn measure(kinds: &mut [Kind<'_>]) {
    let mut table = Table::default();
    table.add(kinds, rounds());
    table.print();
}

/// What each kind took, in its rounds and in all Envoys.
#[derive(Default)]
struct Table(Vec<(&'static str, Vec<f64>)>);

impl Table {
    fn add(&mut self, kinds: &mut [Kind<'_>], rounds: usize) {
        for kind in kinds.iter_mut() {
            kind.round();
            kind.micros.clear();
        }
        for _ in 0..rounds {
            kinds.iter_mut().for_each(Kind::round);
        }
        for kind in kinds {
            match self.0.iter_mut().find(|(name, _)| *name == kind.name) {
                Some((_, micros)) => micros.append(&mut kind.micros),
                None => self.0.push((kind.name, std::mem::take(&mut kind.micros))),
            }
        }
    }

    fn print(&self) {
        let base = self
            .0
            .first()
            .map_or(f64::NAN, |(_, micros)| median(micros));
        println!(
            "  {:44} {:>8} {:>8} {:>7} {:>15}",
            "", "us CPU", "added", "ratio", "lowest-highest"
        );
        for (name, all) in &self.0 {
            let micros = median(all);
            let lowest = all.iter().copied().fold(f64::MAX, f64::min);
            let highest = all.iter().copied().fold(0.0, f64::max);
            println!(
                "  {name:44} {micros:8.2} {:+8.2} {:7.3} {lowest:7.2}-{highest:.2}",
                micros - base,
                micros / base
            );
        }
    }
}

/// What each kind of answer costs.
pub async fn by_kind(mas: &Mas) {
    println!(
        "\nCPU of the Envoy process per request; {} rounds of {}, interleaved",
        rounds(),
        requests_of_a_round()
    );
    let plain = Gateway::without_module().await;
    let local = Gateway::start(mas, 1, json!({})).await;
    let shared = Gateway::start(mas, 1, json!({"cache": {"local_entries": 0}})).await;
    let active = tokens("kind", 100);
    mas.activate(&active);
    let unknown = tokens("nobody", 100);
    let impossible: Vec<String> = unknown.iter().map(|token| super::damaged(token)).collect();
    let mut public = Kind::new("public endpoint, no token", &local, &[], 200);
    public.requests = vec![client::get("/_matrix/client/versions", None)];
    measure(&mut [
        Kind::new("no module", &plain, &active, 200),
        public,
        Kind::new("active, from the worker's cache", &local, &active, 200),
        Kind::new("active, from the shared cache", &shared, &active, 200),
        Kind::new("inactive, from the shared cache", &local, &unknown, 401),
        Kind::new(
            "impossible token, rejected offline",
            &local,
            &impossible,
            401,
        ),
    ]);
}

/// What a token costs that nobody has seen, and what Envoy alone takes to ask or to refuse.
pub async fn cold(mas: &Mas) {
    println!(
        "\nCPU of the Envoy process per unproven token; {} rounds of {}, interleaved",
        rounds(),
        cold_requests_of_a_round()
    );
    let gateway = Gateway::start(mas, 1, json!({})).await;
    let refusal = Refusal::of(&gateway, &tokens("nobody", 1)[0]).await;
    let at_once = control::at_once(1, &refusal).await;
    let after_a_call = control::after_a_call(mas, 1, &refusal).await;
    measure(&mut [
        Kind::cold("no module, 401 at once", &at_once, 401),
        Kind::cold("no module, 401 after a call", &after_a_call, 401),
        Kind::cold("MAS is asked, 401", &gateway, 401),
    ]);
}

/// So many sessions, all in one Envoy.
struct Size {
    sessions: usize,
    /// The row of those that ask for [`FEW`] of them.
    few: &'static str,
    /// The row of those that ask for all of them, one after the other.
    in_turn: Option<&'static str>,
}

const FEW: usize = 1_000;
const SIZES: [Size; 3] = [
    Size {
        sessions: FEW,
        few: "1,000 cached, all used",
        in_turn: None,
    },
    Size {
        sessions: 65_536,
        few: "65,536 cached, 1,000 used",
        in_turn: Some("65,536 cached, all used in turn"),
    },
    Size {
        sessions: 1_000_000,
        few: "1,000,000 cached, 1,000 used",
        in_turn: Some("1,000,000 cached, all used in turn"),
    },
];

/// With fewer some sessions would push each other out.
const SLOTS: u32 = 4_194_304;

/// It takes minutes to fill an Envoy with more, so there is only one of them.
const SOON_FILLED: usize = 100_000;

/// Whether a hit costs more when there are many sessions, and how much memory a session takes.
pub async fn growth(mas: &Mas) {
    let [few, many, most] = &SIZES;
    let sessions = tokens("session", extent(most, many).sessions);
    mas.activate(&sessions);
    let mut figures = Vec::new();
    for (name, local_entries, sizes) in [
        ("the worker's cache", many.sessions, vec![few, many]),
        (
            "the shared cache",
            0,
            extent(vec![few, many, most], vec![few, many]),
        ),
    ] {
        println!(
            "\nGrowth, {name}; {} Envoys of each number of sessions, of a million only one",
            pairs()
        );
        let mut table = Table::default();
        for pair in 0..pairs() {
            let mut envoys = Vec::new();
            for &size in &sizes {
                if pair > 0 && size.sessions > SOON_FILLED {
                    continue;
                }
                let cache = json!({"cache": {"local_entries": local_entries, "slots": SLOTS}});
                let envoy = Gateway::start(mas, 1, cache).await;
                fill(&envoy, mas, &sessions[..size.sessions]).await;
                envoys.push((size, envoy));
            }
            let mut kinds = Vec::new();
            for (size, envoy) in &envoys {
                kinds.push(Kind::new(size.few, envoy, &sessions[..FEW], 200));
                let all = &sessions[..size.sessions];
                kinds.extend(size.in_turn.map(|name| Kind::new(name, envoy, all, 200)));
            }
            table.add(&mut kinds, ROUNDS_OF_A_PAIR);
            for (size, envoy) in &envoys {
                let [local, shared, mas_asked] = envoy.sources().await;
                println!(
                    "  {} sessions, all requests: {local} answered from the worker's cache, {shared} from the shared \
                     cache, {mas_asked} by MAS",
                    size.sessions
                );
            }
        }
        table.print();
        let lines = table.0.iter();
        figures
            .extend(lines.map(|(kind, micros)| format!("{name}: {kind}\t{:.1}", median(micros))));
    }
    plots::save("growth", &figures);
}

/// Has MAS asked about these sessions, and tells what memory they take.
async fn fill(envoy: &Gateway, mas: &Mas, sessions: &[String]) {
    let (few, others) = sessions.split_at(FEW);
    let mut client = Client::open(envoy.addr());
    // Twice, and before the first measurement: memory that every connection and VM needs once.
    client.send(&requests(few), 2 * FEW, 200);
    if others.is_empty() {
        return;
    }
    let (resident, allocated) = envoy.memory().await;
    let calls = mas.calls();
    for batch in others.chunks(SOON_FILLED) {
        client.send(&requests(batch), batch.len(), 200);
        let filled = mas.calls() - calls;
        if others.len() > SOON_FILLED {
            progress(&format!("{filled} of {} sessions filled in", others.len()));
        }
    }
    let filled = mas.calls() - calls;
    let (resident_full, allocated_full) = envoy.memory().await;
    println!(
        "  {filled} sessions filled in; bytes per session: {:.0} resident, {:.0} by Envoy's own count",
        (resident_full as f64 - resident as f64) / filled as f64,
        (allocated_full as f64 - allocated as f64) / filled as f64,
    );
}

fn requests(tokens: &[String]) -> Vec<Vec<u8>> {
    tokens.iter().map(|token| client::whoami(token)).collect()
}
