//! How fast live sessions are served while something else goes on, as tables.

use std::time::Duration;

use super::{
    Gateway,
    flood::{Answers, Attack, Flood},
    median,
    probe::{Percentiles, Probe, Seen},
};

/// The load that all others are compared with.
pub const QUIET: &str = "quiet";

/// One Envoy under one load, once.
pub struct Measured {
    seen: Seen,
    /// Requests of the attack that were answered, per second.
    rate: f64,
}

/// Measures the hits of live sessions for this time, and gives what the attack meanwhile got.
pub async fn measure(
    gateway: &Gateway,
    live: &[String],
    time: Duration,
    attack: Option<Attack>,
) -> (Measured, Answers) {
    let flood = match attack {
        Some(attack) => Some(Flood::start(gateway.addr(), attack).await),
        None => None,
    };
    let probe = Probe::start(gateway.addr(), &gateway.process, live);
    tokio::time::sleep(time).await;
    let seen = probe.finish();
    let answers = match flood {
        Some(flood) => flood.finish().await,
        None => Answers::default(),
    };
    let rate = match answers.all.len() {
        0 => 0.0,
        number => number as f64 / answers.lasted.as_secs_f64(),
    };
    (Measured { seen, rate }, answers)
}

/// Several Envoys under several loads. Medians of what was measured of each.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    envoy: &'static str,
    load: &'static str,
    measured: Vec<Measured>,
}

impl Row {
    fn median(&self, figure: impl Fn(&Measured) -> f64) -> f64 {
        median(&self.measured.iter().map(figure).collect::<Vec<_>>())
    }

    fn flood(&self) -> String {
        match self.load {
            QUIET => QUIET.to_owned(),
            load => format!("{load} ({:.0}/s)", self.median(|one| one.rate)),
        }
    }
}

impl Table {
    pub fn add(&mut self, envoy: &'static str, load: &'static str, measured: Measured) {
        match self.find_mut(envoy, load) {
            Some(row) => row.measured.push(measured),
            None => self.rows.push(Row {
                envoy,
                load,
                measured: vec![measured],
            }),
        }
    }

    /// The latencies, and beside them what they are made of.
    pub fn print(&self) {
        println!("\nHits of live sessions; the ratio is to the same Envoy when quiet.\n");
        println!(
            "| | flood | p50, us | ratio | p90, us | ratio | p99, us | ratio | lowest to highest | slowest, us |"
        );
        println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|");
        for (row, quiet) in self.with_quiet() {
            print!("| {} | {} |", row.envoy, row.flood());
            let p99 = |one: &Measured| one.seen.hits.p99;
            let percentiles: [fn(&Measured) -> f64; 3] =
                [|one| one.seen.hits.p50, |one| one.seen.hits.p90, p99];
            for percentile in percentiles {
                let time = row.median(percentile);
                print!(" {time:.0} | {:.2} |", time / quiet.median(percentile));
            }
            // Each round beside its own quiet.
            let pairs = row.measured.iter().zip(&quiet.measured);
            let ratios = pairs.map(|(one, quiet)| p99(one) / p99(quiet));
            let (lowest, highest) = ratios.fold((f64::MAX, 0.0_f64), |(lowest, highest), ratio| {
                (lowest.min(ratio), highest.max(ratio))
            });
            let slowest = row.median(|one| one.seen.hits.slowest);
            println!(" {lowest:.2} to {highest:.2} | {slowest:.0} |");
        }

        println!("\nWhat the machine has to do with it.\n");
        println!(
            "| | flood | Envoy's workers: CPU, ms/s | for a request of the flood, us | ready without a processor, \
             ms/s | all other programs: CPU, ms/s | the client's thread wakes late: p50, us | p99, us |"
        );
        println!("|---|---|--:|--:|--:|--:|--:|--:|");
        for (row, quiet) in self.with_quiet() {
            let ran = |one: &Measured| one.seen.workers_ran.as_secs_f64();
            let each = match row.median(|one| one.rate) {
                0.0 => String::new(),
                rate => format!("{:.0}", (row.median(ran) - quiet.median(ran)) * 1e6 / rate),
            };
            println!(
                "| {} | {} | {:.0} | {each} | {:.0} | {:.0} | {:.0} | {:.0} |",
                row.envoy,
                row.flood(),
                row.median(ran) * 1e3,
                row.median(|one| one.seen.workers_waited.as_secs_f64()) * 1e3,
                row.median(|one| one.seen.others_ran.as_secs_f64()) * 1e3,
                row.median(|one| one.seen.woken_late.p50),
                row.median(|one| one.seen.woken_late.p99),
            );
        }
    }

    /// By how much one Envoy is slower than another under the same load, in microseconds: what each round says, the lowest first.
    pub fn added(
        &self,
        envoy: &str,
        other: &str,
        load: &str,
        percentile: fn(&Percentiles) -> f64,
    ) -> Vec<f64> {
        let of = |envoy| {
            let row = self.find(envoy, load).expect("a row of the table");
            row.measured.iter().map(|one| percentile(&one.seen.hits))
        };
        let added = of(envoy).zip(of(other)).map(|(one, other)| one - other);
        let mut added: Vec<f64> = added.collect();
        added.sort_by(f64::total_cmp);
        added
    }

    /// For the picture: who answers, invented tokens a second, p99. Without the loads that fill a worker.
    pub fn figures(&self) -> Vec<String> {
        let rows = self.with_quiet().map(|(row, _)| row);
        let rows = rows.filter(|row| row.load == QUIET || row.load.ends_with("/s"));
        let lines = rows.map(|row| {
            let rate = row.median(|one| one.rate);
            let p99 = row.median(|one| one.seen.hits.p99);
            format!("{}\t{rate:.0}\t{p99:.0}", row.envoy.replace('`', ""))
        });
        lines.collect()
    }

    /// The rows of one Envoy after the other, each with the row that it is compared with.
    fn with_quiet(&self) -> impl Iterator<Item = (&Row, &Row)> {
        self.rows
            .iter()
            .filter(|row| row.load == QUIET)
            .flat_map(|quiet| {
                let same = self.rows.iter().filter(|row| row.envoy == quiet.envoy);
                same.map(move |row| (row, quiet))
            })
    }

    fn find(&self, envoy: &str, load: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.envoy == envoy && row.load == load)
    }

    fn find_mut(&mut self, envoy: &str, load: &str) -> Option<&mut Row> {
        self.rows
            .iter_mut()
            .find(|row| row.envoy == envoy && row.load == load)
    }
}
