//! The module beside every alternative, in one run: what a request costs, how often MAS is asked, and what a client gets
//! while MAS is down.
//!
//! CPU time is that of the proxy and, where there is one, of the service that it asks. All take their turn in each round,
//! every round in another order, and each is compared with the module's figure of the same round: the medians of these
//! ratios stay where they are when the machine is busy.

#[path = "alternatives/contender.rs"]
mod contender;
#[path = "alternatives/daemon.rs"]
mod daemon;
#[path = "alternatives/herd.rs"]
mod herd;
#[path = "alternatives/homeserver.rs"]
mod homeserver;
#[path = "alternatives/outage.rs"]
mod outage;
#[path = "alternatives/summary.rs"]
mod summary;

use std::net::SocketAddr;

use self::{
    contender::{Contender, Cpu, MODULE},
    daemon::Addrs,
    outage::Outage,
    summary::{Compared, Times},
};
use super::{client, extent, goal, http2, median, plots, tokens, upstream::Mas};

/// The tokens of a hit, all used in turn.
const SESSIONS: usize = 100;

/// How much is measured. The rounds are odd, so that a median of ratios is the inverse of that of their inverses.
struct Extent {
    rounds: usize,
    hits: usize,
    cold: usize,
    workers: &'static [u32],
    protocols: &'static [Protocol],
}

impl Extent {
    fn chosen() -> Self {
        let full = Self {
            rounds: 5,
            hits: 4_096,
            cold: 256,
            workers: &[1, 2],
            protocols: &[Protocol::Http1, Protocol::Http2],
        };
        let quick = Self {
            rounds: 3,
            hits: 2_048,
            cold: 256,
            workers: &[1],
            protocols: &[Protocol::Http1],
        };
        extent(full, quick)
    }
}

/// Measures all of it and prints the tables.
pub async fn all() {
    let extent = Extent::chosen();
    let mas = Mas::start();
    let (_tls, addrs) = contender::with_tls(mas.addr()).await;
    let mut compared = Vec::new();
    for &workers in extent.workers {
        let contenders = contender::start_all(addrs, workers).await;
        for &protocol in extent.protocols {
            for case in [Case::Hit, Case::Cold, Case::DeadAgain] {
                compared.push(compare(&mas, &contenders, case, protocol, workers, &extent).await);
            }
        }
        herd::count(&mas, &contenders, workers).await;
    }
    let outage = Outage::begin();
    let (_tls, nowhere) = contender::with_tls(outage.addr).await;
    for &workers in extent.workers {
        let contenders = contender::start_all(nowhere, workers).await;
        if workers == 1 {
            outage::what_clients_get(&contenders).await;
        }
        for &protocol in extent.protocols {
            compared.push(compare(&mas, &contenders, Case::Down, protocol, workers, &extent).await);
        }
    }
    for case in Case::ALL {
        summary::print(case, &compared);
    }
}

/// Measures a homeserver without the module, and prints the tables.
pub async fn homeserver_alone() {
    homeserver::dead_tokens(&Mas::start(), &Extent::chosen()).await;
}

#[derive(Clone, Copy, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }

    fn of(self, addrs: Addrs) -> SocketAddr {
        match self {
            Self::Http1 => addrs.http1,
            Self::Http2 => addrs.http2,
        }
    }
}

/// A client of one server, in either protocol.
enum Client {
    Http1(client::Client),
    Http2(http2::Client),
}

impl Client {
    async fn open(addrs: Addrs, protocol: Protocol) -> Self {
        let addr = protocol.of(addrs);
        match protocol {
            Protocol::Http1 => Self::Http1(client::Client::open(addr)),
            Protocol::Http2 => Self::Http2(http2::Client::open(addr).await),
        }
    }

    async fn send(&mut self, tokens: &[String], number: usize, status: u16) {
        match self {
            Self::Http1(client) => {
                let requests: Vec<_> = tokens.iter().map(|token| client::whoami(token)).collect();
                client.send(&requests, number, status);
            }
            Self::Http2(client) => client.send(tokens, number, status).await,
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, PartialEq)]
enum Case {
    Hit,
    Cold,
    DeadAgain,
    /// A token that nobody has seen, while MAS takes no connections.
    Down,
}

impl Case {
    const ALL: [Self; 4] = [Self::Hit, Self::Cold, Self::DeadAgain, Self::Down];

    fn name(self) -> &'static str {
        match self {
            Self::Hit => "known token",
            Self::Cold => "unproven token",
            Self::DeadAgain => "dead token, seen before",
            Self::Down => "unproven token, MAS is down",
        }
    }
}

/// The figures of one server in one case, one for each round.
struct Row<'a> {
    contender: &'a Contender,
    client: Client,
    cpu: Vec<Cpu>,
    calls: f64,
}

async fn compare(
    mas: &Mas,
    contenders: &[Contender],
    case: Case,
    protocol: Protocol,
    workers: u32,
    extent: &Extent,
) -> Compared {
    let live = tokens("alternatives", SESSIONS);
    mas.activate(&live);
    let dead = tokens("dead", SESSIONS);
    let mut rows = Vec::new();
    for contender in contenders {
        // A proxy alone refuses nothing.
        if matches!(case, Case::Hit | Case::Cold) || contender.asks_mas() {
            rows.push(Row {
                contender,
                client: Client::open(contender.addrs, protocol).await,
                cpu: Vec::new(),
                calls: 0.0,
            });
        }
    }
    let number = match case {
        Case::Hit => extent.hits,
        // Some ask MAS about every dead token.
        Case::Cold | Case::DeadAgain | Case::Down => extent.cold,
    };
    for round in 0..=extent.rounds {
        let turn = round % rows.len();
        rows.rotate_left(turn);
        for row in &mut rows {
            let unseen = || {
                let name = format!(
                    "{} {} {workers} {round} {}",
                    case.name(),
                    protocol.name(),
                    row.contender.name
                );
                let unseen = tokens(&name, number);
                mas.activate(&unseen);
                unseen
            };
            let (tokens, status) = match case {
                Case::Hit => (live.clone(), 200),
                Case::Cold => (unseen(), 200),
                Case::DeadAgain => (dead.clone(), 401),
                Case::Down => (unseen(), row.contender.status_while_mas_is_down()),
            };
            let (calls, before) = (mas.calls(), row.contender.cpu());
            row.client.send(&tokens, number, status).await;
            let after = row.contender.cpu();
            // The first round fills caches and does not count.
            if round > 0 {
                let each = |after: f64, before: f64| (after - before) / number as f64;
                row.cpu.push(Cpu {
                    proxy: each(after.proxy, before.proxy),
                    service: each(after.service, before.service),
                });
                row.calls += (mas.calls() - calls) as f64 / (number * extent.rounds) as f64;
            }
        }
    }
    rows.sort_by_key(|row| {
        contenders
            .iter()
            .position(|contender| contender.name == row.contender.name)
    });
    print(&rows, case, protocol, workers);
    let find = |name: &str| rows.iter().find(|row| row.contender.name == name);
    let module = find(MODULE).expect("it is always there");
    let together: Vec<f64> = module.cpu.iter().map(|cpu| cpu.together()).collect();
    let times = rows.iter().map(|row| Times {
        name: row.contender.name,
        ratios: row.ratios_to(module),
    });
    Compared {
        case,
        column: format!("{}, {}", protocol.name(), workers_of(workers)),
        times: times.collect(),
        module_micros: median(&together),
    }
}

fn workers_of(number: u32) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} worker{plural}")
}

fn print(rows: &[Row<'_>], case: Case, protocol: Protocol, workers: u32) {
    println!(
        "\n| {}, {}, {} | proxy, us | service, us | together, us | times the module | lowest to highest | added to the proxy alone, us | calls to MAS |",
        case.name(),
        protocol.name(),
        workers_of(workers)
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|");
    let find = |name: &str| rows.iter().find(|row| row.contender.name == name);
    let module = find(MODULE).expect("it is always there");
    for row in rows {
        let of = |part: fn(&Cpu) -> f64| median(&row.cpu.iter().map(part).collect::<Vec<_>>());
        let ratios = row.ratios_to(module);
        let (lowest, highest) = range(&ratios);
        let added = row.contender.base.and_then(find).map(|base| {
            let pairs = row.cpu.iter().zip(&base.cpu);
            median(
                &pairs
                    .map(|(row, base)| row.together() - base.together())
                    .collect::<Vec<_>>(),
            )
        });
        let service = of(|cpu| cpu.service);
        println!(
            "| {} | {:.1} | {} | {:.1} | {:.2} | {lowest:.2} to {highest:.2} | {} | {:.2} |",
            row.contender.name,
            of(|cpu| cpu.proxy),
            if service > 0.0 {
                format!("{service:.1}")
            } else {
                String::new()
            },
            of(|cpu| cpu.together()),
            median(&ratios),
            added.map_or(String::new(), |added| format!("{added:.1}")),
            row.calls,
        );
    }
    if case == Case::Hit && protocol == Protocol::Http1 && workers == 1 {
        let lines = rows.iter().map(|row| {
            let of = |part: fn(&Cpu) -> f64| median(&row.cpu.iter().map(part).collect::<Vec<_>>());
            let (proxy, service) = (of(|cpu| cpu.proxy), of(|cpu| cpu.service));
            format!("{}\t{proxy:.1}\t{service:.1}", row.contender.name)
        });
        plots::save("alternatives", &lines.collect::<Vec<_>>());
    }
    if case == Case::Hit {
        for alternative in rows
            .iter()
            .filter(|row| row.contender.name.starts_with("ext_authz"))
        {
            let ratio = median(&module.ratios_to(alternative));
            goal(
                &format!("a hit is at most 0.50x of {}", alternative.contender.name),
                ratio,
                0.5,
            );
        }
    }
}

impl Row<'_> {
    /// What it took as a multiple of another, round by round.
    fn ratios_to(&self, other: &Self) -> Vec<f64> {
        let pairs = self.cpu.iter().zip(&other.cpu);
        pairs
            .map(|(this, other)| this.together() / other.together())
            .collect()
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let lowest = values.iter().copied().fold(f64::MAX, f64::min);
    let highest = values.iter().copied().fold(0.0, f64::max);
    (lowest, highest)
}
