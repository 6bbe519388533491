//! The local stack of `make run`: Envoy with the module, a stand-in MAS and a stand-in homeserver, in the foreground.
//!
//! It takes its ports from `envoy/local/envoy.yaml`, so that the file works alone as well. Where a port is taken, or a
//! real MAS or homeserver is to be used, Envoy gets an adapted copy of the file. The stand-ins run in this process,
//! and Envoy is its child: whichever way this process ends, nothing is left behind. With the stand-in MAS comes a page
//! that shows what happens, on the control port.
//!
//! | environment | |
//! |---|---|
//! | `ENVOY` | the Envoy (or func-e) to run |
//! | `MAS_URL`, `MAS_SECRET` | a real MAS and its shared secret |
//! | `HOMESERVER_URL` | a real homeserver |
//! | `SERVER_NAME` | the part after the colon in user ids |

use std::{
    env,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Introspected, Mas, Options},
    page::{Cast, Observer, Page, Stack},
};
use tokio::signal::unix::{SignalKind, signal};

mod bootstrap;
mod demo;
mod descriptors;
mod envoy;
mod upstream;

use bootstrap::{Bootstrap, Listener};
use envoy::{Envoy, Program};
use upstream::Upstream;

const CONFIGURATION: &str = "envoy/local/envoy.yaml";
const MODULE: &str = "dist/matrix-edge-auth.wasm";
/// The one port that is not in the Envoy configuration.
const CONTROL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 18081);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.split_first() {
        None => run(),
        Some((first, rest)) if first == envoy::AS_CHILD => envoy::become_child(rest),
        Some(_) => Err(Failure::new("local takes no arguments")
            .hint("it reads ENVOY, MAS_URL, MAS_SECRET, HOMESERVER_URL and SERVER_NAME")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.message);
            for hint in &failure.hints {
                eprintln!("       {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// What went wrong, and what to do next.
#[derive(Debug)]
struct Failure {
    message: String,
    hints: Vec<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hints: Vec::new(),
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Runs on this thread: Envoy asks the system to end it with the thread that started it, so that must be the main one.
fn run() -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start: {error}")))?
        .block_on(stack())
}

async fn stack() -> Result<(), Failure> {
    // Before anything starts, so that nothing is missed.
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;

    let mut bootstrap = Bootstrap::read(Path::new(CONFIGURATION))?;
    if !Path::new(MODULE).exists() {
        return Err(Failure::new(format!("{MODULE} is missing")).hint("build it first: make build"));
    }
    let program = Program::find()?;
    let secret = secret()?;
    descriptors::allow_many();

    let mas = match upstream("MAS_URL")? {
        Some(url) => {
            bootstrap.point_mas_at(&url)?;
            None
        }
        None => Some(start_mas(&mut bootstrap, &secret).await?),
    };
    let homeserver = match upstream("HOMESERVER_URL")? {
        Some(url) => {
            bootstrap.point_homeserver_at(&url)?;
            None
        }
        None => Some(start_homeserver(&mut bootstrap).await?),
    };
    if let Some(server_name) = variable("SERVER_NAME")? {
        bootstrap.set_server_name(&server_name)?;
    }
    for listener in Listener::ALL {
        let addr = free(listener.title(), bootstrap.listener(listener)?)?;
        bootstrap.set_listener(listener, addr)?;
    }
    let admin = free("Envoy's admin interface", bootstrap.admin()?)?;
    bootstrap.set_admin(admin)?;
    let configuration = bootstrap.write()?;
    let page = match &mas {
        Some(mas) => Some(start_page(&bootstrap, mas, &secret).await?),
        None => None,
    };

    println!("Envoy: {program}, {}", configuration.display());
    println!(
        "       Its warnings about capability_restriction_config and a limit of connections are to be expected (docs/page.md)"
    );
    let mut envoy = Envoy::start(&program, &configuration, &secret)?;
    let ready = tokio::select! {
        ready = envoy.until_ready(admin) => ready.map(|()| true),
        _ = interrupt.recv() => Ok(false),
        _ = terminate.recv() => Ok(false),
    };
    let ended = match ready {
        Ok(true) => {
            if let Some(mas) = &mas {
                // From now on it tells the homeserver, by way of the edge.
                mas.mas
                    .set_homeserver(bootstrap.listener(Listener::Provisioning)?);
            }
            demo::print(
                &bootstrap,
                mas.as_ref().zip(page.as_ref()),
                homeserver.is_some(),
            )?;
            tokio::select! {
                died = envoy.died() => Err(died),
                _ = interrupt.recv() => Ok(()),
                _ = terminate.recv() => Ok(()),
            }
        }
        Ok(false) => Ok(()),
        Err(failure) => Err(failure),
    };
    envoy.stop().await;
    if ended.is_ok() {
        println!("\nAll stopped.");
    }
    ended
}

fn watch(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(format!("cannot watch for signals: {error}")))
}

/// A stand-in MAS with the sessions that it begins with.
struct StandInMas {
    mas: Arc<Mas>,
    cast: Arc<Cast>,
    observer: Arc<Observer>,
    /// To be shown only if it is the stand-in's own.
    secret: String,
}

async fn start_mas(bootstrap: &mut Bootstrap, secret: &str) -> Result<StandInMas, Failure> {
    let wanted = bootstrap.mas()?;
    let observer = Arc::new(Observer::default());
    let options = Options {
        secret: secret.to_owned(),
        on_introspection: Some(Arc::new({
            let observer = Arc::clone(&observer);
            move |introspected| {
                tell(introspected);
                observer.introspected(introspected);
            }
        })),
        on_provisioning: Some(Arc::new({
            let observer = Arc::clone(&observer);
            move |call| observer.told(call)
        })),
        ..Options::default()
    };
    let mas = on_port_or_free("the stand-in MAS", wanted, |listen| {
        Mas::start(Options {
            listen,
            ..options.clone()
        })
    })
    .await?;
    bootstrap.set_mas(mas.addr())?;
    println!("stand-in MAS: http://{}", mas.addr());
    let mas = Arc::new(mas);
    Ok(StandInMas {
        cast: Arc::new(Cast::begin(Arc::clone(&mas))),
        mas,
        observer,
        secret: if secret == DEFAULT_SECRET {
            secret.to_owned()
        } else {
            "$MAS_SECRET".to_owned()
        },
    })
}

/// The page, and beside it the control interface.
async fn start_page(
    bootstrap: &Bootstrap,
    mas: &StandInMas,
    secret: &str,
) -> Result<Page, Failure> {
    let stack = Stack {
        mas: Arc::clone(&mas.mas),
        cast: Arc::clone(&mas.cast),
        observer: Arc::clone(&mas.observer),
        gateway: bootstrap.listener(Listener::Gateway)?,
        introspection: bootstrap.listener(Listener::Introspection)?,
        admin: bootstrap.admin()?,
        secret: secret.to_owned(),
        cache: bootstrap.cache()?,
    };
    let page = on_port_or_free("the page", CONTROL, |listen| {
        Page::start(listen, stack.clone())
    })
    .await?;
    println!("page: http://{}/", page.addr());
    Ok(page)
}

async fn start_homeserver(bootstrap: &mut Bootstrap) -> Result<Homeserver, Failure> {
    let wanted = bootstrap.homeserver()?;
    let homeserver = on_port_or_free("the stand-in homeserver", wanted, Homeserver::start).await?;
    bootstrap.set_homeserver(homeserver.addr())?;
    println!("stand-in homeserver: http://{}", homeserver.addr());
    Ok(homeserver)
}

/// One line per introspection; the count is what shows that a request was served from the cache.
fn tell(introspected: &Introspected) {
    let Introspected {
        name,
        calls,
        total,
        outcome,
    } = introspected;
    let name = name.as_deref().unwrap_or("a token without a name");
    println!("stand-in MAS: introspection {total}: {name} ({calls} so far): {outcome}");
}

async fn on_port_or_free<T, F>(
    what: &str,
    wanted: SocketAddr,
    start: impl Fn(SocketAddr) -> F,
) -> Result<T, Failure>
where
    F: Future<Output = io::Result<T>>,
{
    let started = match start(wanted).await {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            println!("port {} is taken: {what} uses a free one", wanted.port());
            start(SocketAddr::new(wanted.ip(), 0)).await
        }
        started => started,
    };
    started.map_err(|error| Failure::new(format!("{what} cannot listen on {wanted}: {error}")))
}

/// `wanted`, or the same address with a free port. Envoy binds it itself a moment later.
fn free(what: &str, wanted: SocketAddr) -> Result<SocketAddr, Failure> {
    let cannot = |error| Failure::new(format!("{what} cannot listen on {wanted}: {error}"));
    match TcpListener::bind(wanted) {
        Ok(_) => Ok(wanted),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let listener = TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).map_err(cannot)?;
            let found = listener.local_addr().map_err(cannot)?;
            println!(
                "port {} is taken: {what} uses {}",
                wanted.port(),
                found.port()
            );
            Ok(found)
        }
        Err(error) => Err(cannot(error)),
    }
}

fn secret() -> Result<String, Failure> {
    match (variable("MAS_SECRET")?, variable("MAS_URL")?) {
        (Some(secret), _) => Ok(secret),
        (None, None) => Ok(DEFAULT_SECRET.to_owned()),
        (None, Some(_)) => Err(Failure::new("MAS_URL is set and MAS_SECRET is not")
            .hint("set MAS_SECRET to `matrix.secret` of MAS's configuration")),
    }
}

fn upstream(name: &str) -> Result<Option<Upstream>, Failure> {
    variable(name)?
        .map(|url| Upstream::parse(name, &url))
        .transpose()
}

/// A variable of the environment; empty counts as unset.
fn variable(name: &str) -> Result<Option<String>, Failure> {
    match env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(value)),
        Ok(_) | Err(env::VarError::NotPresent) => Ok(None),
        Err(env::VarError::NotUnicode(_)) => Err(Failure::new(format!("{name} is not UTF-8"))),
    }
}
