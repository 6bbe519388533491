//! What a running Envoy costs, as the kernel and Envoy itself count it.

use std::{fs, path::Path, process::Command, time::Duration};

use crate::support::{
    envoy::Envoy,
    http::{self, Request},
};

/// Of a clock tick in `/proc`: `USER_HZ` is 100 on every Linux that Envoy runs on.
const TICK_MICROS: f64 = 10_000.0;

/// A running process: an Envoy, another server, or the bench itself.
pub struct Process {
    pid: u32,
    has_children: bool,
}

impl Process {
    /// Finds an Envoy.
    pub fn of(envoy: &Envoy) -> Self {
        Self::in_directory(envoy.dir())
    }

    /// Finds a process by its own directory, which is on its command line.
    pub fn in_directory(dir: &Path) -> Self {
        let dir = dir.to_str().expect("a path in UTF-8").as_bytes();
        let has_directory = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.windows(dir.len()).any(|part| part == dir)
        };
        let pid = pids().find(has_directory).expect("the process runs");
        Self {
            pid,
            has_children: false,
        }
    }

    /// A process whose work is done by others that it starts.
    pub fn with_children(pid: u32) -> Self {
        Self {
            pid,
            has_children: true,
        }
    }

    /// The bench itself: attackers, MAS and the client that measures.
    pub fn this() -> Self {
        Self {
            pid: std::process::id(),
            has_children: false,
        }
    }

    /// CPU time used so far, of all its threads and children that still run, in microseconds and to the nanosecond. For
    /// servers whose threads stay.
    pub fn exact_cpu_micros(&self) -> f64 {
        let mut family = vec![self.pid];
        if self.has_children {
            let parents: Vec<(u32, u32)> =
                pids().filter_map(|pid| Some((pid, parent(pid)?))).collect();
            let mut at = 0;
            while let Some(&member) = family.get(at) {
                let children = parents.iter().filter(|(_, parent)| *parent == member);
                family.extend(children.map(|(pid, _)| pid));
                at += 1;
            }
        }
        family.into_iter().map(threads_micros).sum()
    }

    /// CPU time used so far, of all its threads, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        let stat = self.read("stat");
        // The second field is the name in parentheses, which may hold anything.
        let after_name = stat.rsplit_once(')').expect("a name").1;
        let field = |number: usize| -> f64 {
            let text = after_name.split_whitespace().nth(number - 3);
            text.expect("a field").parse().expect("a number")
        };
        (field(14) + field(15)) * TICK_MICROS
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = self.read("status");
        let kilobytes = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB"))
            .expect("a process has memory");
        kilobytes.trim().parse::<u64>().expect("a number") * 1024
    }

    /// What its workers have used of the processors so far.
    pub fn workers(&self) -> Threads {
        let tasks = Path::new("/proc").join(self.pid.to_string()).join("task");
        let mut workers = Threads::default();
        for task in fs::read_dir(tasks).expect("Envoy runs") {
            let task = task.expect("a thread").path();
            let read = |file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
            if !read("comm").starts_with("wrk:") {
                continue;
            }
            // Nanoseconds; all are 0 in a kernel that does not count them.
            let times = read("schedstat");
            let mut times = times
                .split_whitespace()
                .map(|time| Duration::from_nanos(time.parse().expect("a number")));
            workers.ran += times.next().unwrap_or_default();
            workers.waited += times.next().unwrap_or_default();
        }
        workers
    }

    /// Only there may any of its threads run, as `taskset` writes it.
    fn keep_to(&self, processors: &str) {
        let pid = self.pid.to_string();
        run(
            "taskset",
            &["--all-tasks", "--pid", "--cpu-list", processors, &pid],
        );
    }

    fn read(&self, file: &str) -> String {
        let path = Path::new("/proc").join(self.pid.to_string()).join(file);
        fs::read_to_string(path).expect("Envoy runs")
    }
}

/// The numbers of all processes.
fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .expect("Linux")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The process that started this one; `None` if it has ended meanwhile.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// What the threads of a process have used, in microseconds.
fn threads_micros(pid: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0.0;
    };
    let nanos = threads.flatten().filter_map(|thread| {
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1_000.0
}

/// The time of some threads together.
#[derive(Default)]
pub struct Threads {
    /// On a processor.
    pub ran: Duration,
    /// Ready, and without one.
    pub waited: Duration,
}

/// CPU time used so far by everything on this machine, in microseconds.
pub fn machine_cpu_micros() -> f64 {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let ticks: Vec<f64> = stat
        .split_whitespace()
        .skip(1)
        .map_while(|field| field.parse().ok())
        .collect();
    // Neither idle nor waiting for a disk; the two for guests are counted elsewhere already.
    let busy = [0, 1, 2, 5, 6, 7]
        .into_iter()
        .filter_map(|at| ticks.get(at));
    busy.sum::<f64>() * TICK_MICROS
}

/// Lets this thread, and those it starts, run only while no other thread wants the processor. For what has a
/// machine of its own in real life.
pub fn give_way() {
    let link = fs::read_link("/proc/thread-self").expect("Linux");
    let thread = link.file_name().expect("a thread has a number");
    let thread = thread.to_str().expect("a number");
    run("chrt", &["--idle", "--pid", "0", thread]);
}

/// Envoys alone on one processor, and the bench on all others, as if it were other machines. Ends when it is
/// dropped.
pub struct Apart;

impl Apart {
    /// # Panics
    ///
    /// If there is only one processor.
    pub fn begin(envoys: &[&Process]) -> Self {
        let last = processors() - 1;
        assert!(last > 0, "this needs two processors");
        for envoy in envoys {
            envoy.keep_to("0");
        }
        Process::this().keep_to(&format!("1-{last}"));
        Self
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        Process::this().keep_to(&format!("0-{}", processors() - 1));
    }
}

/// Of the machine, whatever this process may use just now.
fn processors() -> usize {
    let stat = fs::read_to_string("/proc/stat").expect("Linux");
    let lines = stat.lines().map(|line| line.as_bytes());
    lines
        .filter(|line| line.starts_with(b"cpu") && line.get(3).is_some_and(u8::is_ascii_digit))
        .count()
}

/// A program of util-linux.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; install util-linux"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {output:?}"
    );
}

/// Bytes that Envoy says it has allocated. V8's memory is not among them.
pub async fn allocated(envoy: &Envoy) -> u64 {
    let memory = http::send(envoy.admin(), &Request::get("/memory")).await;
    memory.json()["allocated"]
        .as_str()
        .expect("Envoy tells what it has allocated")
        .parse()
        .expect("a number")
}
